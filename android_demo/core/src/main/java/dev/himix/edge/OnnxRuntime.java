package dev.himix.edge;

/** ONNX Runtime in this process. Call {@link #load} before the first session is opened. */
public final class OnnxRuntime {
    private static String version;

    private OnnxRuntime() {}

    /**
     * Opens ONNX Runtime; our native library {@code himix_onnx} must have been loaded with System.load or loadLibrary.
     *
     * @param library file name or path of ONNX Runtime's shared library.
     */
    public static synchronized void load(String library) {
        OnnxGraph.load(library);
        version = OnnxGraph.version(library);
    }

    /** Its version, for example "1.29.0"; null before {@link #load}. */
    public static synchronized String version() {
        return version;
    }
}
