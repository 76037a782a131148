package dev.himix.edge.demo;

import dev.himix.edge.Cores;
import dev.himix.edge.ExecuTorch;
import dev.himix.edge.InputException;
import dev.himix.edge.OnnxRuntime;
import java.io.File;

/** ONNX Runtime and our access to it, from the app's own libraries. */
final class Runtime {
    private static boolean loaded;

    private Runtime() {}

    static synchronized void load() {
        if (loaded) {
            return;
        }
        try {
            System.loadLibrary("onnxruntime");
            System.loadLibrary("himix_onnx");
        } catch (UnsatisfiedLinkError error) {
            throw new InputException("this device's processor is not supported (" + android.os.Build.SUPPORTED_ABIS[0] + ")");
        }
        OnnxRuntime.load("libonnxruntime.so");
        useExecuTorch();
        loaded = true;
    }

    /** Where the app's kind has it (app/src/executorch). */
    private static void useExecuTorch() {
        try {
            Class<?> found = Class.forName("dev.himix.edge.demo.AarProgram");
            ExecuTorch.use((ExecuTorch.Loader) found.getMethod("loader").invoke(null));
        } catch (ClassNotFoundException without) {
            return;
        } catch (ReflectiveOperationException error) {
            throw new InputException("ExecuTorch cannot be used: " + error);
        }
    }

    /** Threads for a session: the fast cores of a phone. */
    static int threads() {
        return Cores.fast(new File("/sys/devices/system/cpu"), java.lang.Runtime.getRuntime().availableProcessors());
    }
}
