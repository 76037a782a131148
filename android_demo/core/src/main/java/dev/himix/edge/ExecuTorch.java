package dev.himix.edge;

import java.io.File;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;

/**
 * ExecuTorch in this process, if the app has it: its library for Android is another one than ONNX Runtime's, so a kind
 * of the app that has it says so with {@link #use} before the first bundle is read.
 */
public final class ExecuTorch {
    /** Opens programs. */
    public interface Loader {
        /** Throws InputException if ExecuTorch refuses the file. */
        Program load(File file);
    }

    /** An open program, with methods that share its memory. */
    public interface Program {
        /** Runs a method. Throws InputException with ExecuTorch's reason. */
        Value[] run(String method, Value... inputs);

        void close();
    }

    /** What goes into a method and comes out: a direct buffer in native byte order. */
    public static final class Value {
        /** Types of numbers. */
        public enum Kind {
            UINT8(1),
            INT64(8),
            FLOAT(4);

            public final int bytes;

            Kind(int bytes) {
                this.bytes = bytes;
            }
        }

        public final Kind kind;
        public final long[] shape;
        public final ByteBuffer data;

        public Value(Kind kind, ByteBuffer data, long... shape) {
            this.kind = kind;
            this.data = data;
            this.shape = shape;
        }

        static Value zeros(Kind kind, long... shape) {
            long count = 1;
            for (long dimension : shape) {
                count *= dimension;
            }
            ByteBuffer data = ByteBuffer.allocateDirect((int) count * kind.bytes).order(ByteOrder.nativeOrder());
            return new Value(kind, data, shape);
        }
    }

    private static Loader loader;

    private ExecuTorch() {}

    /** From now on bundles of the target executorch open. */
    public static synchronized void use(Loader found) {
        loader = found;
    }

    static synchronized Loader loader() {
        return loader;
    }
}
