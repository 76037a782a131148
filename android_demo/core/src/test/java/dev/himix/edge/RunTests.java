package dev.himix.edge;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import org.junit.runner.Description;
import org.junit.runner.JUnitCore;
import org.junit.runner.Result;
import org.junit.runner.notification.Failure;
import org.junit.runner.notification.RunListener;

/** Runs all tests, further classes by name, and closes with a line of counts; exit code 1 if any failed. */
public final class RunTests {
    private RunTests() {}

    public static void main(String[] arguments) throws ClassNotFoundException {
        List<Class<?>> classes =
                new ArrayList<>(
                        Arrays.asList(
                                BenchmarkTest.class, BundleTest.class, ChatTest.class, CoresTest.class,
                                HalfCacheTest.class, HostileSessionTest.class, HostileTest.class, ImageKVTest.class,
                                InstallingTest.class, LoadingTest.class, ResizeTest.class, SamplerTest.class,
                                SessionTest.class, TilesTest.class,
                                TokenizerTest.class));
        for (String name : arguments) {
            classes.add(Class.forName(name));
        }
        JUnitCore core = new JUnitCore();
        core.addListener(
                new RunListener() {
                    @Override
                    public void testStarted(Description test) {
                        System.out.println(test.getTestClass().getSimpleName() + "." + test.getMethodName());
                    }

                    @Override
                    public void testFailure(Failure failure) {
                        System.out.println("FAILED " + failure.getTestHeader() + "\n" + failure.getTrimmedTrace());
                    }
                });
        Result result = core.run(classes.toArray(new Class<?>[0]));
        System.out.println("ONNX Runtime " + OnnxRuntime.version() + ", Java " + System.getProperty("java.version"));
        int failed = result.getFailureCount();
        System.out.println(result.getRunCount() - failed + " passed, " + failed + " failed");
        System.exit(failed == 0 && result.getRunCount() > 0 ? 0 : 1);
    }
}
