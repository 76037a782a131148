package dev.himix.edge;

import java.util.ArrayList;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * Questions without a pause, in windows of ten seconds: how fast a device still is when it is warm, and what it draws
 * from its battery meanwhile. The fields are those of the record's "sustained" and "energy".
 */
final class Sustained {
    static final double WINDOW_S = 10;
    static final String BATTERY = "battery"; // the name of the platform's reading of power

    private final Benchmark.Platform platform;
    private final int seconds;
    private final long began = System.nanoTime();
    private final List<Object> windows = new ArrayList<Object>();
    private List<Double> ttfts = new ArrayList<Double>();
    private double windowBegan;
    private double steps; // milliseconds of the window's tokens behind each answer's first
    private int stepCount;
    private int windowTokens;
    private int answers;
    private long tokens;
    private boolean charging;
    private boolean powerKnown;
    private double joules;
    private double power; // watts, at the last look
    private double lookedAt;

    Sustained(Benchmark.Platform platform, int seconds) {
        this.platform = platform;
        this.seconds = seconds;
        look(0);
    }

    boolean over() {
        return at() >= seconds;
    }

    int answers() {
        return answers;
    }

    int windows() {
        return windows.size();
    }

    void add(Stats stats) {
        answers++;
        tokens += stats.newTokens;
        windowTokens += stats.newTokens;
        ttfts.add(stats.ttft);
        for (double time : stats.interToken) {
            steps += time;
            stepCount++;
        }
        double now = at();
        Map<String, Object> reading = look(now);
        if (now - windowBegan >= WINDOW_S || over()) {
            Map<String, Object> window = new LinkedHashMap<String, Object>();
            window.put("at_s", windowBegan);
            window.put("seconds", now - windowBegan);
            window.put("answers", ttfts.size());
            window.put("tokens", windowTokens);
            if (steps > 0) {
                window.put("tokens_per_s", 1000 * stepCount / steps);
            }
            window.put("ttft_ms", Benchmark.median(ttfts));
            window.put("reading", reading);
            windows.add(window);
            windowBegan = now;
            ttfts = new ArrayList<Double>();
            steps = 0;
            stepCount = 0;
            windowTokens = 0;
        }
    }

    private double at() {
        return (System.nanoTime() - began) / 1e9;
    }

    /** One reading; what the battery gave since the last one, at the mean of both. */
    private Map<String, Object> look(double now) {
        Map<String, Object> reading = new LinkedHashMap<String, Object>();
        reading.put("at_s", now);
        reading.putAll(platform.reading());
        charging |= Boolean.TRUE.equals(reading.get("charging"));
        Object watts = reading.get("power_w");
        if (watts instanceof Map && ((Map<?, ?>) watts).get(BATTERY) instanceof Double) {
            double given = (Double) ((Map<?, ?>) watts).get(BATTERY);
            joules += powerKnown ? (now - lookedAt) * (power + given) / 2 : 0;
            power = given;
            lookedAt = now;
            powerKnown = true;
        }
        return reading;
    }

    Map<String, Object> record() {
        return Collections.<String, Object>singletonMap("windows", windows);
    }

    /** The whole device's energy by its battery, or why that cannot be told. */
    List<Object> energy() {
        Map<String, Object> energy = new LinkedHashMap<String, Object>();
        energy.put("source", BATTERY);
        energy.put("what", "the whole device");
        if (charging) {
            energy.put("reason", "plugged in: the battery does not tell what the device uses");
        } else if (!powerKnown) {
            energy.put("reason", "this device does not tell its battery's current");
        } else {
            energy.put("joules", joules);
            energy.put("seconds", lookedAt);
            energy.put("tokens", tokens);
        }
        return Collections.<Object>singletonList(energy);
    }
}
