package dev.himix.edge;

import java.io.File;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.concurrent.atomic.AtomicInteger;

/**
 * One ONNX graph on the CPU, on ONNX Runtime's C API. Inputs and outputs are memory that the caller owns; a buffer may
 * be input and output at once. (ONNX Runtime's own Java library exists for Android and Maven; this keeps what is tested
 * on a desktop the very code that runs on a phone.)
 */
final class OnnxGraph {
    /** A named tensor in memory: a direct buffer in native byte order, ONNX's element type, its dimensions. */
    static final class Tensor {
        static final int FLOAT = 1;
        static final int UINT8 = 2;
        static final int INT32 = 6;
        static final int INT64 = 7;
        static final int FLOAT16 = 10;

        final String name;
        final ByteBuffer buffer;
        final int type;
        final long[] shape;

        Tensor(String name, ByteBuffer buffer, int type, long... shape) {
            this.name = name;
            this.buffer = buffer;
            this.type = type;
            this.shape = shape;
        }

        /** A few zeros that Java gives back by itself. */
        static Tensor small(String name, int type, long... shape) {
            ByteBuffer buffer = ByteBuffer.allocateDirect((int) bytes(name, type, shape)).order(ByteOrder.nativeOrder());
            return new Tensor(name, buffer, type, shape);
        }

        /** Zeros outside Java's heap, for {@link NativeMemory#release}. Throws InputException if there is no room. */
        static Tensor reserve(String name, int type, long... shape) {
            String what = name + " " + Arrays.toString(shape);
            return new Tensor(name, NativeMemory.allocate(bytes(what, type, shape), what), type, shape);
        }

        private static long bytes(String what, int type, long... shape) {
            long bytes = type == FLOAT || type == INT32 ? 4 : type == INT64 ? 8 : type == FLOAT16 ? 2 : 1;
            for (long dimension : shape) {
                bytes = dimension == 0 || bytes <= Integer.MAX_VALUE / dimension ? bytes * dimension : Long.MAX_VALUE;
                if (bytes > Integer.MAX_VALUE) {
                    throw new InputException(what + " is more than one buffer can hold");
                }
            }
            return bytes;
        }

        /** The same memory under another name. */
        Tensor as(String name) {
            return new Tensor(name, buffer, type, shape);
        }
    }

    private static final AtomicInteger OPEN = new AtomicInteger();

    private final File file;
    private final long session;

    /**
     * Opens a graph; {@code threads} 0 leaves the choice to ONNX Runtime. {@link #load} has to come first. Throws
     * InputException if ONNX Runtime refuses the file.
     */
    OnnxGraph(File file, int threads) {
        this.file = file;
        try {
            session = open(file.getPath(), threads);
        } catch (InputException error) {
            throw new InputException(file + ": ONNX Runtime cannot load it: " + error.getMessage());
        }
        OPEN.incrementAndGet();
    }

    /** Graphs of this process that are not closed. */
    static int openGraphs() {
        return OPEN.get();
    }

    /** Throws InputException unless the graph has an input or output of this name, element type and shape. */
    void expect(boolean output, String name, int type, long... shape) {
        long[] found = shape(session, output, name);
        if (!Arrays.equals(found, shape)) {
            throw new InputException(
                    file + ": " + name + " is " + Arrays.toString(found) + ", the manifest says "
                            + Arrays.toString(shape));
        }
        int kind = type(output, name);
        if (kind != type) {
            throw new InputException(
                    file + ": " + name + " holds numbers of ONNX's type " + kind + ", this app takes type " + type);
        }
    }

    /** ONNX's element type of an input or output, 0 if there is none of this name. */
    int type(boolean output, String name) {
        return type(session, output, name);
    }

    /** Runs the graph, outputs into their memory. Throws InputException with ONNX Runtime's reason. */
    void run(List<Tensor> inputs, List<Tensor> outputs) {
        List<Tensor> all = new ArrayList<Tensor>(inputs);
        all.addAll(outputs);
        String[] names = new String[all.size()];
        ByteBuffer[] buffers = new ByteBuffer[all.size()];
        int[] types = new int[all.size()];
        long[][] shapes = new long[all.size()][];
        for (int i = 0; i < names.length; i++) {
            Tensor tensor = all.get(i);
            names[i] = tensor.name;
            buffers[i] = tensor.buffer;
            types[i] = tensor.type;
            shapes[i] = tensor.shape;
        }
        try {
            run(session, inputs.size(), names, buffers, types, shapes);
        } catch (InputException error) {
            throw new InputException(file + ": " + error.getMessage());
        }
    }

    void close() {
        OPEN.decrementAndGet();
        close(session);
    }

    /** Opens ONNX Runtime's shared library, once for the process. Throws InputException. */
    static native void load(String library);

    /** ONNX Runtime's version, "1.29.0"; empty if it cannot be opened. */
    static native String version(String library);

    private static native long open(String file, int threads);

    private static native void close(long session);

    private static native long[] shape(long session, boolean output, String name);

    private static native int type(long session, boolean output, String name);

    private static native void run(
            long session, int inputs, String[] names, ByteBuffer[] buffers, int[] types, long[][] shapes);
}
