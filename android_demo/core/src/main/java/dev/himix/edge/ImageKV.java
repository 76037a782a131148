package dev.himix.edge;

import java.io.File;
import java.io.FileNotFoundException;
import java.io.IOException;
import java.io.OutputStream;
import java.io.RandomAccessFile;
import java.lang.ref.PhantomReference;
import java.lang.ref.ReferenceQueue;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.FloatBuffer;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.Collections;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;

/**
 * An image's keys and values for every layer, (I, G, N, h): computed once, kept, saved, used under any prompt. They are
 * outside Java's heap, in the type of the cache that they go into: float, or half precision. {@link #close} gives the
 * memory back at once; of one that nobody holds any more it is given back when the next one is made.
 *
 * <p>The file is the one that himix-edge's Python session writes and reads: safetensors, float32.
 */
public final class ImageKV {
    private static final String FORMAT = "himix-image-kv-1";
    private static final long MAX_FILE_BYTES = 1L << 31;
    private static final int MAX_HEADER_BYTES = 1 << 20;
    private static final int PIECE = 1 << 14; // numbers that are read or written at a time

    private static final ReferenceQueue<ImageKV> LOST = new ReferenceQueue<ImageKV>();
    private static final Set<Hold> HELD = Collections.synchronizedSet(new HashSet<Hold>());

    private final Hold memory;
    private final boolean half;
    final int rows; // I
    final int heads; // G
    public final int tokens; // N, the cache slots it fills
    final int headDim; // h
    final int nextPosition; // rotary position of the first text token behind it
    public final String modelId; // names the tower and injection weights that made it

    /** The memory of one, to be given back once. */
    private static final class Hold extends PhantomReference<ImageKV> {
        private ByteBuffer key; // null: given back
        private ByteBuffer value;

        Hold(ImageKV of, long bytes) {
            super(of, LOST);
            key = NativeMemory.allocate(bytes, "an image's keys");
            try {
                value = NativeMemory.allocate(bytes, "an image's values");
            } finally {
                if (value == null) {
                    NativeMemory.release(key);
                }
            }
            HELD.add(this);
        }

        void release() {
            if (HELD.remove(this)) {
                NativeMemory.release(key);
                NativeMemory.release(value);
                key = null;
                value = null;
            }
        }
    }

    /** Zeros. Throws InputException if there is no room. */
    ImageKV(boolean half, int rows, int heads, int tokens, int headDim, String modelId, int nextPosition) {
        this.half = half;
        this.rows = rows;
        this.heads = heads;
        this.tokens = tokens;
        this.headDim = headDim;
        this.modelId = modelId;
        this.nextPosition = nextPosition;
        for (Object lost = LOST.poll(); lost != null; lost = LOST.poll()) {
            ((Hold) lost).release();
        }
        double bytes = (half ? 2.0 : 4.0) * rows * heads * tokens * headDim;
        memory = new Hold(this, bytes > Integer.MAX_VALUE ? Long.MAX_VALUE : (long) bytes);
    }

    /** Bytes of keys and values. */
    public long bytes() {
        return 2L * count() * (half ? 2 : 4);
    }

    private int count() {
        return rows * heads * tokens * headDim;
    }

    /** Gives the memory back. Another use throws InputException from then on. */
    public synchronized void close() {
        memory.release();
    }

    private ByteBuffer memory(boolean ofKey) {
        if (memory.key == null) {
            throw new InputException("this ImageKV is closed; encode the image again");
        }
        return ofKey ? memory.key : memory.value;
    }

    /** Takes {@code count} numbers each from where the buffers stand. */
    synchronized void fill(FloatBuffer key, FloatBuffer value) {
        put(true, 0, key, count());
        put(false, 0, value, count());
    }

    private void put(boolean ofKey, int at, FloatBuffer from, int count) {
        ByteBuffer to = memory(ofKey);
        if (half) {
            for (int i = 0; i < count; i++) {
                to.putShort(2 * (at + i), Half.of(from.get()));
            }
            return;
        }
        FloatBuffer floats = to.asFloatBuffer();
        floats.position(at);
        FloatBuffer part = from.duplicate();
        part.limit(from.position() + count);
        floats.put(part);
        from.position(from.position() + count);
    }

    /** {@code count} numbers from {@code at} on as floats, to the front of {@code to}. */
    private void get(boolean ofKey, int at, float[] to, int count) {
        ByteBuffer from = memory(ofKey);
        if (half) {
            for (int i = 0; i < count; i++) {
                to[i] = Half.toFloat(from.getShort(2 * (at + i)));
            }
            return;
        }
        FloatBuffer floats = from.asFloatBuffer();
        floats.position(at);
        floats.get(to, 0, count);
    }

    /** All keys, or all values, on Java's heap. */
    synchronized float[] numbers(boolean ofKey) {
        float[] numbers = new float[count()];
        get(ofKey, 0, numbers, numbers.length);
        return numbers;
    }

    /**
     * Copies the N * h numbers of one head into a cache.
     *
     * @param row which of the I distinct keys and values.
     * @param at where in the cache, counted in numbers.
     * @param toHalf whether the cache is float16, else float32.
     */
    synchronized void copy(boolean ofKey, int row, int head, ByteBuffer cache, int at, boolean toHalf) {
        int block = tokens * headDim;
        int from = (row * heads + head) * block;
        ByteBuffer to = cache.duplicate().order(ByteOrder.nativeOrder());
        if (half == toHalf) {
            int size = half ? 2 : 4;
            ByteBuffer part = memory(ofKey).duplicate();
            part.limit((from + block) * size).position(from * size);
            to.position(at * size);
            to.put(part);
            return;
        }
        float[] numbers = new float[block];
        get(ofKey, from, numbers, block);
        for (int i = 0; i < block; i++) {
            if (toHalf) {
                to.putShort(2 * (at + i), Half.of(numbers[i]));
            } else {
                to.putFloat(4 * (at + i), numbers[i]);
            }
        }
    }

    /**
     * Several images' keys and values, one behind the other, for questions about all of them.
     *
     * @throws InputException none, images of different models, or of a vanilla model, whose images depend on each other.
     */
    public static ImageKV join(List<ImageKV> images) {
        if (images.isEmpty()) {
            throw new InputException("no images to join");
        }
        ImageKV first = images.get(0);
        int tokens = 0;
        for (ImageKV image : images) {
            boolean same = image.modelId.equals(first.modelId) && image.half == first.half && image.rows == first.rows
                    && image.heads == first.heads && image.headDim == first.headDim;
            if (!same) {
                throw new InputException(
                        "the images' keys and values were made by different models; encode them with this one");
            }
            if (images.size() > 1 && image.nextPosition != 0) {
                throw new InputException(
                        "a vanilla model takes one image: its image tokens have positions, so they cannot be joined");
            }
            tokens += image.tokens;
        }
        ImageKV joined =
                new ImageKV(
                        first.half, first.rows, first.heads, tokens, first.headDim, first.modelId, first.nextPosition);
        int before = 0;
        for (ImageKV image : images) {
            for (int block = 0; block < first.rows * first.heads; block++) {
                int at = (block * tokens + before) * first.headDim;
                for (int kind = 0; kind < 2; kind++) {
                    ByteBuffer to = joined.memory(kind == 0);
                    image.copy(kind == 0, block / first.heads, block % first.heads, to, at, first.half);
                }
            }
            before += image.tokens;
        }
        return joined;
    }

    /** Writes it as a whole or not at all. Throws InputException if the place cannot be written. */
    public synchronized void save(File file) {
        Map<String, Object> metadata = new LinkedHashMap<String, Object>();
        metadata.put("model_id", modelId);
        metadata.put("next_position", String.valueOf(nextPosition));
        metadata.put("format", FORMAT);
        Map<String, Object> header = new LinkedHashMap<String, Object>();
        header.put("__metadata__", metadata);
        header.put("key", entry(0));
        header.put("value", entry(4L * count()));
        StringBuilder text = new StringBuilder(Json.write(header).trim());
        while (text.toString().getBytes(StandardCharsets.UTF_8).length % 8 != 0) {
            text.append(' ');
        }
        final byte[] headerBytes = text.toString().getBytes(StandardCharsets.UTF_8);
        final byte[] length = ByteBuffer.allocate(8).order(ByteOrder.LITTLE_ENDIAN).putLong(headerBytes.length).array();
        Files.write(file, new Files.Content() {
            @Override
            public void writeTo(OutputStream out) throws IOException {
                out.write(length);
                out.write(headerBytes);
                write(true, out);
                write(false, out);
            }
        });
    }

    private Map<String, Object> entry(long from) {
        Map<String, Object> entry = new LinkedHashMap<String, Object>();
        entry.put("dtype", "F32");
        entry.put("shape", Arrays.asList(rows, heads, tokens, headDim));
        entry.put("data_offsets", Arrays.asList(from, from + 4L * count()));
        return entry;
    }

    private void write(boolean ofKey, OutputStream out) throws IOException {
        float[] numbers = new float[PIECE];
        ByteBuffer bytes = ByteBuffer.allocate(4 * PIECE).order(ByteOrder.LITTLE_ENDIAN);
        for (int at = 0; at < count(); at += PIECE) {
            int count = Math.min(PIECE, count() - at);
            get(ofKey, at, numbers, count);
            bytes.asFloatBuffer().put(numbers, 0, count);
            out.write(bytes.array(), 0, 4 * count);
        }
    }

    /**
     * Reads what {@link #save} or the Python session wrote; {@link OnnxRuntime#load} has to come first. Throws
     * InputException naming a file that is neither.
     */
    public static ImageKV load(File file) {
        Files.checkPlain(file, MAX_FILE_BYTES);
        try (RandomAccessFile in = new RandomAccessFile(file, "r")) {
            return parse(in);
        } catch (FileNotFoundException error) {
            throw new InputException(file + ": no such file");
        } catch (IOException error) {
            throw new InputException(file + ": cannot be read (" + error.getMessage() + ")");
        } catch (InputException error) {
            throw new InputException(file + ": damaged or not a saved ImageKV (" + error.getMessage() + ")");
        }
    }

    private static ImageKV parse(RandomAccessFile in) throws IOException {
        long length = in.length() < 8 ? -1 : Long.reverseBytes(in.readLong());
        if (length < 2 || length > Math.min(in.length() - 8, MAX_HEADER_BYTES)) {
            throw new InputException("no safetensors header");
        }
        byte[] text = new byte[(int) length];
        in.readFully(text);
        Fields header = Fields.of(Files.parseJson(ByteBuffer.wrap(text)), "header");
        header.only("__metadata__", "key", "value");
        Fields metadata = header.object("__metadata__");
        if (!metadata.string("format", "").equals(FORMAT)) {
            throw new InputException("its format is not " + FORMAT);
        }
        Fields key = header.object("key");
        int[] shape = key.integers("shape", 1, 1 << 24);
        if (shape.length != 4 || !Arrays.equals(shape, header.object("value").integers("shape", 1, 1 << 24))) {
            throw new InputException("key and value are not two tensors of one shape");
        }
        String next = metadata.string("next_position");
        if (!next.matches("[0-9]{1,8}")) {
            throw new InputException("next_position is not a position");
        }
        Fields value = header.object("value");
        long start = 8 + length;
        long size = in.length() - start;
        long[] keyPlace = place(key, shape, size);
        long[] valuePlace = place(value, shape, size);
        boolean apart = keyPlace[1] <= valuePlace[0] || valuePlace[1] <= keyPlace[0];
        if (!apart || keyPlace[1] - keyPlace[0] + valuePlace[1] - valuePlace[0] != size) {
            throw new InputException("key and value do not lie one behind the other");
        }
        ImageKV image =
                new ImageKV(
                        false, shape[0], shape[1], shape[2], shape[3], metadata.string("model_id"),
                        Integer.parseInt(next));
        boolean whole = false;
        try {
            image.read(true, in, start + keyPlace[0]);
            image.read(false, in, start + valuePlace[0]);
            whole = true;
        } finally {
            if (!whole) {
                image.close();
            }
        }
        return image;
    }

    /** Where a tensor's bytes begin and end. */
    private static long[] place(Fields entry, int[] shape, long size) {
        entry.only("dtype", "shape", "data_offsets");
        List<Object> offsets = entry.list("data_offsets");
        double count = (double) shape[0] * shape[1] * shape[2] * shape[3];
        boolean numbers = offsets.size() == 2 && offsets.get(0) instanceof Long && offsets.get(1) instanceof Long;
        long from = numbers ? (Long) offsets.get(0) : -1;
        long to = numbers ? (Long) offsets.get(1) : -1;
        if (!entry.string("dtype").equals("F32") || from < 0 || to > size || to - from != 4 * count) {
            throw new InputException("a tensor's type or size is not what its shape says");
        }
        return new long[] {from, to};
    }

    private void read(boolean ofKey, RandomAccessFile in, long from) throws IOException {
        in.seek(from);
        ByteBuffer bytes = ByteBuffer.allocate(4 * PIECE).order(ByteOrder.LITTLE_ENDIAN);
        for (int at = 0; at < count(); at += PIECE) {
            int count = Math.min(PIECE, count() - at);
            in.readFully(bytes.array(), 0, 4 * count);
            FloatBuffer numbers = bytes.asFloatBuffer();
            for (int i = 0; i < count; i++) {
                float number = numbers.get(i);
                if (Float.isNaN(number) || Float.isInfinite(number)) {
                    throw new InputException("not all of its values are numbers");
                }
            }
            put(ofKey, at, numbers, count);
        }
    }
}
