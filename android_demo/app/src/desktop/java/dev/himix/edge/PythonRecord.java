package dev.himix.edge;

import static org.junit.Assert.assertEquals;

import java.io.File;
import java.util.List;

/** Whether himix-edge reads a benchmark record. */
public final class PythonRecord {
    private PythonRecord() {}

    public static void check(File file) throws Exception {
        assertEquals(1, ((List<?>) Fixtures.python("record", file.getPath())).size());
    }
}
