package dev.himix.edge.demo;

import android.app.ActivityManager;
import android.content.Context;
import android.content.Intent;
import android.content.IntentFilter;
import android.os.BatteryManager;
import android.os.Build;
import android.os.PowerManager;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.Map;

/** What the platform tells about the device, in the fields of a benchmark record. */
final class Device {
    private static final String[] THERMAL = {
        "none", "light", "moderate", "severe", "critical", "emergency", "shutdown",
    };

    private Device() {}

    static Map<String, Object> facts(Context context) {
        Map<String, Object> facts = new LinkedHashMap<String, Object>();
        facts.put("name", Build.MANUFACTURER + " " + Build.MODEL);
        boolean emulator = Build.HARDWARE.equals("ranchu") || Build.HARDWARE.equals("goldfish");
        boolean large = context.getResources().getConfiguration().smallestScreenWidthDp >= 600;
        facts.put("kind", emulator ? "emulator" : large ? "tablet" : "phone");
        facts.put("os", "Android " + Build.VERSION.RELEASE);
        facts.put("cpu", chip());
        String abi = Build.SUPPORTED_ABIS[0];
        facts.put("architecture", abi.startsWith("arm64") ? "arm64" : abi);
        facts.put("threads", java.lang.Runtime.getRuntime().availableProcessors());
        ActivityManager.MemoryInfo memory = new ActivityManager.MemoryInfo();
        ((ActivityManager) context.getSystemService(Context.ACTIVITY_SERVICE)).getMemoryInfo(memory);
        facts.put("memory_bytes", memory.totalMem);
        return facts;
    }

    /** The chip's name, which is told from Android 12 on; before, the board's. */
    private static String chip() {
        try {
            return Build.class.getField("SOC_MANUFACTURER").get(null) + " " + Build.class.getField("SOC_MODEL").get(null);
        } catch (ReflectiveOperationException older) {
            return Build.HARDWARE;
        }
    }

    static Map<String, Object> reading(Context context) {
        Map<String, Object> reading = new LinkedHashMap<String, Object>();
        Intent battery = context.registerReceiver(null, new IntentFilter(Intent.ACTION_BATTERY_CHANGED));
        if (battery != null) {
            int level = battery.getIntExtra(BatteryManager.EXTRA_LEVEL, -1);
            int scale = battery.getIntExtra(BatteryManager.EXTRA_SCALE, -1);
            if (level >= 0 && scale > 0) {
                reading.put("battery_percent", 100.0 * level / scale);
            }
            int tenths = battery.getIntExtra(BatteryManager.EXTRA_TEMPERATURE, 0);
            if (tenths > 0) {
                reading.put("battery_temperature_c", tenths / 10.0);
            }
            reading.put("charging", battery.getIntExtra(BatteryManager.EXTRA_PLUGGED, 0) != 0);
            int millivolts = battery.getIntExtra(BatteryManager.EXTRA_VOLTAGE, 0);
            BatteryManager gauge = (BatteryManager) context.getSystemService(Context.BATTERY_SERVICE);
            int microamperes = gauge.getIntProperty(BatteryManager.BATTERY_PROPERTY_CURRENT_NOW);
            boolean told = microamperes != Integer.MIN_VALUE && microamperes != 0; // its sign differs between makers
            if (told && millivolts > 0) {
                double watts = Math.abs((double) microamperes) * millivolts / 1e9;
                reading.put("power_w", Collections.singletonMap("battery", watts));
            }
        }
        try { // from Android 10 on
            Object power = context.getSystemService(Context.POWER_SERVICE);
            int status = (Integer) PowerManager.class.getMethod("getCurrentThermalStatus").invoke(power);
            if (status >= 0 && status < THERMAL.length) {
                reading.put("thermal_state", THERMAL[status]);
            }
            // from Android 11 on; 1 is where it throttles severely, NaN: asked too often, or not told
            Object headroom = PowerManager.class.getMethod("getThermalHeadroom", int.class).invoke(power, 0);
            if (!((Float) headroom).isNaN()) {
                reading.put("thermal_headroom", ((Float) headroom).doubleValue());
            }
        } catch (ReflectiveOperationException older) {
            return reading;
        }
        return reading;
    }
}
