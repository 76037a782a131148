package dev.himix.edge.demo;

import dev.himix.edge.Cores;
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
        loaded = true;
    }

    /** Threads for a session: the fast cores of a phone. */
    static int threads() {
        return Cores.fast(new File("/sys/devices/system/cpu"), java.lang.Runtime.getRuntime().availableProcessors());
    }
}
