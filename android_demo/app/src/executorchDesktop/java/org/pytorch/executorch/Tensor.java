package org.pytorch.executorch;

import java.nio.Buffer;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.FloatBuffer;
import java.nio.LongBuffer;

/** As ExecuTorch's, a view of a direct buffer in native byte order; anything else is refused. */
public class Tensor {
    final String type;
    final long[] shape;
    final byte[] bytes;

    Tensor(String type, byte[] bytes, long[] shape) {
        this.type = type;
        this.bytes = bytes;
        this.shape = shape;
    }

    public static Tensor fromBlobUnsigned(ByteBuffer data, long[] shape) {
        byte[] bytes = new byte[check(data, ByteOrder.nativeOrder(), shape)];
        data.duplicate().get(bytes);
        return new Tensor("uint8", bytes, shape);
    }

    public static Tensor fromBlob(LongBuffer data, long[] shape) {
        ByteBuffer bytes = ByteBuffer.allocate(8 * check(data, data.order(), shape)).order(ByteOrder.nativeOrder());
        bytes.asLongBuffer().put(data.duplicate());
        return new Tensor("int64", bytes.array(), shape);
    }

    public static Tensor fromBlob(FloatBuffer data, long[] shape) {
        ByteBuffer bytes = ByteBuffer.allocate(4 * check(data, data.order(), shape)).order(ByteOrder.nativeOrder());
        bytes.asFloatBuffer().put(data.duplicate());
        return new Tensor("float32", bytes.array(), shape);
    }

    private static int check(Buffer data, ByteOrder order, long[] shape) {
        long count = 1;
        for (long dimension : shape) {
            count *= dimension;
        }
        if (!data.isDirect() || order != ByteOrder.nativeOrder() || data.capacity() != count || data.position() != 0) {
            throw new IllegalArgumentException("not a direct buffer in native order of " + count + " numbers");
        }
        return (int) count;
    }

    public long[] shape() {
        return shape;
    }

    public float[] getDataAsFloatArray() {
        if (!type.equals("float32")) {
            throw new IllegalStateException(type);
        }
        float[] numbers = new float[bytes.length / 4];
        ByteBuffer.wrap(bytes).order(ByteOrder.nativeOrder()).asFloatBuffer().get(numbers);
        return numbers;
    }
}
