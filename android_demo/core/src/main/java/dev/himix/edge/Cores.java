package dev.himix.edge;

import java.io.BufferedReader;
import java.io.File;
import java.io.FileReader;
import java.io.IOException;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.regex.Pattern;

/** The fast cores of a phone, as Linux tells of them. */
public final class Cores {
    private static final Pattern CORE = Pattern.compile("cpu[0-9]{1,4}");
    private static final double FAST_CAPACITY = 0.5; // of the fastest core's; small ones have a third of it or less
    private static final double FAST_FREQUENCY = 0.75; // clocks are closer together than what cores do in a cycle

    private Cores() {}

    /**
     * How many cores are worth a thread: each step of a session waits for the slowest of its threads.
     *
     * @param system /sys/devices/system/cpu.
     * @param available how many cores this process may use.
     * @return at least 1 and at most {@code available}; where the kernel tells nothing, at most 4.
     */
    public static int fast(File system, int available) {
        File[] files = system.listFiles();
        List<File> cores = new ArrayList<File>();
        for (File file : files == null ? new File[0] : files) {
            if (CORE.matcher(file.getName()).matches()) {
                cores.add(file);
            }
        }
        int fast = count(cores, "cpu_capacity", FAST_CAPACITY);
        fast = fast > 0 ? fast : count(cores, "cpufreq/cpuinfo_max_freq", FAST_FREQUENCY);
        return Math.max(1, Math.min(fast > 0 ? fast : 4, available));
    }

    /** Cores whose number is at least {@code share} of the largest; 0 if none has one. */
    private static int count(List<File> cores, String file, double share) {
        List<Long> numbers = new ArrayList<Long>();
        for (File core : cores) {
            long number = number(new File(core, file));
            if (number > 0) {
                numbers.add(number);
            }
        }
        int fast = 0;
        for (long number : numbers) {
            fast += number >= share * Collections.max(numbers) ? 1 : 0;
        }
        return fast;
    }

    /** The number in a file, or -1: a core that is switched off has no clock. */
    private static long number(File file) {
        try (BufferedReader in = new BufferedReader(new FileReader(file))) {
            String line = in.readLine();
            return line != null && line.matches("[0-9]{1,12}") ? Long.parseLong(line) : -1;
        } catch (IOException error) {
            return -1;
        }
    }
}
