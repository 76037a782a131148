package dev.himix.edge;

import static org.junit.Assert.assertEquals;

import java.io.File;
import java.nio.charset.StandardCharsets;
import org.junit.Rule;
import org.junit.Test;
import org.junit.rules.TemporaryFolder;

/** Fast cores of phones that are on sale, as their kernels describe them. */
public class CoresTest {
    @Rule public final TemporaryFolder folder = new TemporaryFolder();

    @Test
    public void capacityTellsWhichCoresAreFast() {
        assertEquals(6, fast("cpu_capacity", 8, 335, 335, 926, 926, 926, 864, 864, 1024)); // Snapdragon 8 Gen 3
        assertEquals(4, fast("cpu_capacity", 8, 250, 250, 250, 250, 850, 850, 850, 1024)); // Snapdragon 865
        assertEquals(2, fast("cpu_capacity", 2, 335, 335, 926, 926, 926, 864, 864, 1024)); // in a set of two
        assertEquals(8, fast("cpu_capacity", 8, 1024, 1024, 1024, 1024, 1024, 1024, 1024, 1024));
    }

    @Test
    public void otherwiseTheClockTells() {
        // Kirin 980, Snapdragon 855, and one of whose cores two are off
        assertEquals(4, fast("cpufreq/cpuinfo_max_freq", 8, 1800, 1800, 1800, 1800, 1920, 1920, 2600, 2600, 2600, 2600));
        assertEquals(4, fast("cpufreq/cpuinfo_max_freq", 8, 1785, 1785, 1785, 1785, 2419, 2419, 2419, 2841));
        assertEquals(2, fast("cpufreq/cpuinfo_max_freq", 8, 1785, 1785, 2419, 2841, -1, -1));
    }

    @Test
    public void aKernelThatTellsNothing() {
        assertEquals(4, fast("none", 16, 1, 2, 3, 4, 5, 6, 7, 8));
        assertEquals(3, fast("none", 3, 1, 2, 3));
        assertEquals(1, Cores.fast(new File("/no/such/folder"), 0));
    }

    private int fast(String file, int available, int... numbers) {
        File system = new File(folder.getRoot(), file.replace('/', '-') + available + "-" + numbers.length + numbers[0]);
        for (int i = 0; i < numbers.length; i++) {
            File told = new File(system, "cpu" + i + "/" + file);
            told.getParentFile().mkdirs();
            if (numbers[i] >= 0) {
                Files.write(told, (numbers[i] + "\n").getBytes(StandardCharsets.US_ASCII));
            }
        }
        new File(system, "cpufreq").mkdirs();
        new File(system, "cpuidle").mkdirs();
        return Cores.fast(system, available);
    }
}
