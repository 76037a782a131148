package dev.himix.edge;

import java.io.File;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * An image's keys and values for every layer, float32 (I, G, N, h). Computed once, kept, saved, used under any prompt.
 * The file is the one that himix-edge's Python session writes and reads: safetensors.
 */
public final class ImageKV {
    private static final String FORMAT = "himix-image-kv-1";
    private static final long MAX_FILE_BYTES = 256 << 20;
    private static final int MAX_HEADER_BYTES = 1 << 20;

    final float[] key;
    final float[] value;
    final int rows; // I
    final int heads; // G
    public final int tokens; // N, the cache slots it fills
    final int headDim; // h
    final int nextPosition; // rotary position of the first text token behind it
    public final String modelId; // names the tower and injection weights that made it

    ImageKV(
            float[] key, float[] value, int rows, int heads, int tokens, int headDim, String modelId, int nextPosition) {
        this.key = key;
        this.value = value;
        this.rows = rows;
        this.heads = heads;
        this.tokens = tokens;
        this.headDim = headDim;
        this.modelId = modelId;
        this.nextPosition = nextPosition;
    }

    /** Bytes of keys and values. */
    public long bytes() {
        return 4L * (key.length + value.length);
    }

    /** Writes it as a whole or not at all. Throws InputException if the place cannot be written. */
    public void save(File file) {
        Map<String, Object> metadata = new LinkedHashMap<String, Object>();
        metadata.put("model_id", modelId);
        metadata.put("next_position", String.valueOf(nextPosition));
        metadata.put("format", FORMAT);
        Map<String, Object> header = new LinkedHashMap<String, Object>();
        header.put("__metadata__", metadata);
        header.put("key", entry(0));
        header.put("value", entry(4L * key.length));
        StringBuilder text = new StringBuilder(Json.write(header).trim());
        while (text.toString().getBytes(StandardCharsets.UTF_8).length % 8 != 0) {
            text.append(' ');
        }
        byte[] headerBytes = text.toString().getBytes(StandardCharsets.UTF_8);
        byte[] length = ByteBuffer.allocate(8).order(ByteOrder.LITTLE_ENDIAN).putLong(headerBytes.length).array();
        Files.write(file, length, headerBytes, littleEndian(key), littleEndian(value));
    }

    private Map<String, Object> entry(long from) {
        Map<String, Object> entry = new LinkedHashMap<String, Object>();
        entry.put("dtype", "F32");
        entry.put("shape", Arrays.asList(rows, heads, tokens, headDim));
        entry.put("data_offsets", Arrays.asList(from, from + 4L * key.length));
        return entry;
    }

    private static byte[] littleEndian(float[] values) {
        ByteBuffer buffer = ByteBuffer.allocate(values.length * 4).order(ByteOrder.LITTLE_ENDIAN);
        buffer.asFloatBuffer().put(values);
        return buffer.array();
    }

    /** Reads what {@link #save} or the Python session wrote. Throws InputException naming a file that is neither. */
    public static ImageKV load(File file) {
        ByteBuffer bytes = ByteBuffer.wrap(Files.read(file, MAX_FILE_BYTES)).order(ByteOrder.LITTLE_ENDIAN);
        try {
            return parse(bytes);
        } catch (InputException error) {
            throw new InputException(file + ": damaged or not a saved ImageKV (" + error.getMessage() + ")");
        }
    }

    private static ImageKV parse(ByteBuffer bytes) {
        long length = bytes.remaining() < 8 ? -1 : bytes.getLong();
        if (length < 2 || length > Math.min(bytes.remaining(), MAX_HEADER_BYTES)) {
            throw new InputException("no safetensors header");
        }
        byte[] text = new byte[(int) length];
        bytes.get(text);
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
        ByteBuffer data = bytes.slice().order(ByteOrder.LITTLE_ENDIAN);
        Fields value = header.object("value");
        long[] keyPlace = place(key, shape, data.capacity());
        long[] valuePlace = place(value, shape, data.capacity());
        boolean apart = keyPlace[1] <= valuePlace[0] || valuePlace[1] <= keyPlace[0];
        if (!apart || keyPlace[1] - keyPlace[0] + valuePlace[1] - valuePlace[0] != data.capacity()) {
            throw new InputException("key and value do not lie one behind the other");
        }
        return new ImageKV(
                numbers(data, keyPlace), numbers(data, valuePlace), shape[0], shape[1], shape[2], shape[3],
                metadata.string("model_id"), Integer.parseInt(next));
    }

    /** Where a tensor's bytes begin and end. */
    private static long[] place(Fields entry, int[] shape, int size) {
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

    private static float[] numbers(ByteBuffer data, long[] place) {
        float[] values = new float[(int) (place[1] - place[0]) / 4];
        data.clear();
        data.position((int) place[0]);
        data.slice().order(ByteOrder.LITTLE_ENDIAN).asFloatBuffer().get(values);
        for (float value : values) {
            if (Float.isNaN(value) || Float.isInfinite(value)) {
                throw new InputException("not all of its values are numbers");
            }
        }
        return values;
    }
}
