package dev.himix.edge;

import java.io.File;
import java.io.IOException;
import java.io.RandomAccessFile;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.charset.StandardCharsets;
import java.util.HashSet;
import java.util.List;
import java.util.Set;

/**
 * Which other files an ONNX graph has its weights in: ONNX Runtime reads them without asking, so the manifest has to
 * list them. Follows onnx.proto down to every tensor's `external_data`.
 */
final class OnnxFiles {
    private static final int MODEL = 1;
    private static final int TRAINING = 2;
    private static final int GRAPH = 3;
    private static final int FUNCTION = 4;
    private static final int NODE = 5;
    private static final int ATTRIBUTE = 6;
    private static final int SPARSE_TENSOR = 7;
    private static final int TENSOR = 8;
    private static final int EXTERNAL_DATA = 9;
    private static final int MOST_DEPTH = 64;

    /** {message, number of a field, message in it}. */
    private static final int[][] FIELDS = {
        {MODEL, 7, GRAPH}, {MODEL, 20, TRAINING}, {MODEL, 25, FUNCTION}, {TRAINING, 1, GRAPH}, {TRAINING, 2, GRAPH},
        {GRAPH, 1, NODE}, {GRAPH, 5, TENSOR}, {GRAPH, 15, SPARSE_TENSOR}, {FUNCTION, 7, NODE},
        {FUNCTION, 11, ATTRIBUTE},
        {NODE, 5, ATTRIBUTE}, {ATTRIBUTE, 5, TENSOR}, {ATTRIBUTE, 6, GRAPH}, {ATTRIBUTE, 10, TENSOR},
        {ATTRIBUTE, 11, GRAPH}, {ATTRIBUTE, 22, SPARSE_TENSOR}, {ATTRIBUTE, 23, SPARSE_TENSOR},
        {SPARSE_TENSOR, 1, TENSOR}, {SPARSE_TENSOR, 2, TENSOR}, {TENSOR, 13, EXTERNAL_DATA},
    };

    private final ByteBuffer bytes;
    private final Set<String> locations = new HashSet<String>();

    private OnnxFiles(ByteBuffer bytes) {
        this.bytes = bytes;
    }

    /** Throws InputException if a graph of the bundle has weights in a file that is not one of its role. */
    static void check(Bundle bundle) {
        for (String role : Bundle.ROLES) {
            List<String> paths = bundle.rolePaths(role);
            String main = paths.get(0);
            String beside = main.substring(0, main.lastIndexOf('/') + 1);
            for (String location : locations(new File(bundle.folder, main))) {
                if (!paths.contains(beside + location)) {
                    throw new InputException(
                            new File(bundle.folder, main) + ": its weights are in \"" + location
                                    + "\", which the manifest does not list; refused");
                }
            }
        }
    }

    /** The files that a graph names, as it names them. Throws InputException for a file that is no graph. */
    static Set<String> locations(File file) {
        try (RandomAccessFile opened = new RandomAccessFile(file, "r")) {
            FileChannel channel = opened.getChannel();
            OnnxFiles found = new OnnxFiles(channel.map(FileChannel.MapMode.READ_ONLY, 0, channel.size()));
            found.walk(0, found.bytes.limit(), MODEL, 0);
            return found.locations;
        } catch (IOException | IllegalArgumentException error) { // over 2 GiB: protobuf has no such messages
            throw new InputException(file + ": cannot be read (" + error.getMessage() + ")");
        } catch (IndexOutOfBoundsException error) {
            throw new InputException(file + ": ONNX Runtime cannot load it: not an ONNX graph");
        }
    }

    private void walk(int from, int to, int message, int depth) {
        String key = "";
        String value = "";
        bytes.position(from);
        while (bytes.position() < to) {
            long tag = varint(to);
            int number = (int) (tag >>> 3);
            switch ((int) tag & 7) {
                case 0:
                    varint(to);
                    break;
                case 1:
                    skip(8, to);
                    break;
                case 5:
                    skip(4, to);
                    break;
                case 2:
                    long length = varint(to);
                    int start = bytes.position();
                    skip(length, to);
                    int end = bytes.position();
                    if (message == EXTERNAL_DATA && number == 1) {
                        key = text(start, end);
                    } else if (message == EXTERNAL_DATA && number == 2) {
                        value = text(start, end);
                    }
                    int inner = inner(message, number);
                    if (inner != 0) {
                        if (depth == MOST_DEPTH) {
                            throw new IndexOutOfBoundsException();
                        }
                        walk(start, end, inner, depth + 1);
                    }
                    bytes.position(end);
                    break;
                default:
                    throw new IndexOutOfBoundsException(); // groups: ONNX has none
            }
        }
        if (key.equals("location")) {
            locations.add(value);
        }
    }

    private static int inner(int message, int number) {
        for (int[] field : FIELDS) {
            if (field[0] == message && field[1] == number) {
                return field[2];
            }
        }
        return 0;
    }

    private String text(int from, int to) {
        byte[] text = new byte[to - from];
        bytes.position(from);
        bytes.get(text);
        return new String(text, StandardCharsets.UTF_8);
    }

    private void skip(long count, int to) {
        if (count < 0 || count > to - bytes.position()) {
            throw new IndexOutOfBoundsException();
        }
        bytes.position(bytes.position() + (int) count);
    }

    private long varint(int to) {
        long value = 0;
        for (int shift = 0; shift < 64; shift += 7) {
            if (bytes.position() >= to) {
                throw new IndexOutOfBoundsException();
            }
            byte next = bytes.get();
            value |= (long) (next & 127) << shift;
            if (next >= 0) {
                return value;
            }
        }
        throw new IndexOutOfBoundsException();
    }
}
