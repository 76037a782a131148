package dev.himix.edge;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.concurrent.atomic.AtomicLong;

/**
 * Memory outside Java's heap, zeroed. Android takes even ByteBuffer.allocateDirect from the heap, whose limit for an
 * app is a fraction of the device's memory; this is the C library's. Whoever allocates it frees it, once.
 */
final class NativeMemory {
    private static final AtomicLong IN_USE = new AtomicLong();

    private NativeMemory() {}

    /** {@code bytes} of zeros in native byte order. Throws InputException, naming {@code what}, if there is no room. */
    static ByteBuffer allocate(long bytes, String what) {
        if (bytes > Integer.MAX_VALUE) {
            throw new InputException(what + " is more than one buffer can hold");
        }
        ByteBuffer buffer = calloc(Math.max(bytes, 1));
        if (buffer == null) {
            throw new InputException(what + " needs " + (bytes >> 20) + " MiB; this device has no room for it");
        }
        IN_USE.addAndGet(buffer.capacity());
        return buffer.order(ByteOrder.nativeOrder());
    }

    /** Nothing may read or write the buffer, or a view of it, from now on. */
    static void release(ByteBuffer buffer) {
        IN_USE.addAndGet(-buffer.capacity());
        free(buffer);
    }

    /** Bytes that were allocated and not freed yet. */
    static long inUse() {
        return IN_USE.get();
    }

    private static native ByteBuffer calloc(long bytes);

    private static native void free(ByteBuffer buffer);
}
