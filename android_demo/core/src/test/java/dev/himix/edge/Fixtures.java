package dev.himix.edge;

import java.awt.image.BufferedImage;
import java.io.File;
import java.io.IOException;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import javax.imageio.ImageIO;

/** The conformance suite (conformance/README.md), and the bundle that it was made with. */
final class Fixtures {
    static final File FOLDER = new File(System.getProperty("himix.suite"));
    static final File BUNDLE = new File(System.getProperty("himix.bundle"));
    private static final Map<String, Object> READ = new HashMap<>();
    private static Session session;

    private Fixtures() {}

    /** One of the suite's JSON files. */
    @SuppressWarnings("unchecked")
    static Map<String, Object> json(String file) {
        return (Map<String, Object>) READ.computeIfAbsent(file, name -> Files.readJson(file(name), 64 << 20));
    }

    /** What the Python session answers with this bundle. */
    @SuppressWarnings("unchecked")
    static <T> T answers(String kind) {
        return (T) json("answers/" + BUNDLE.getName() + ".json").get(kind);
    }

    /** The questions, and behind them the descriptions. */
    static List<Map<String, Object>> questions() {
        List<Map<String, Object>> all = new ArrayList<>(Fixtures.<List<Map<String, Object>>>answers("questions"));
        all.addAll(Fixtures.<List<Map<String, Object>>>answers("descriptions"));
        return all;
    }

    /** What images.json says of an image. */
    @SuppressWarnings("unchecked")
    static Map<String, Object> facts(String image) {
        return (Map<String, Object>) json("images.json").get(image);
    }

    static int number(Map<?, ?> facts, String name) {
        return ((Number) facts.get(name)).intValue();
    }

    static File file(String path) {
        return new File(FOLDER, path);
    }

    /** The bundle's session: one for all tests, as in the app. */
    static Session session() {
        if (session == null) {
            loadRuntime();
            session = Session.open(BUNDLE, 2);
        }
        return session;
    }

    /** Rows of the bundle's embedding. */
    static int rows() {
        return Bundle.read(BUNDLE).model.vocabSize;
    }

    static void loadRuntime() {
        System.load(System.getProperty("himix.jni"));
        OnnxRuntime.load(System.getProperty("himix.onnxruntime"));
    }

    static int[] ints(Object list) {
        return ((List<?>) list).stream().mapToInt(number -> ((Number) number).intValue()).toArray();
    }

    static float[] floats(Object list) {
        List<?> numbers = (List<?>) list;
        float[] floats = new float[numbers.size()];
        for (int i = 0; i < floats.length; i++) {
            floats[i] = ((Number) numbers.get(i)).floatValue();
        }
        return floats;
    }

    /** An image's stored pixels. */
    static ImageSource raw(Map<String, Object> facts) {
        int width = number(facts, "width");
        int height = number(facts, "height");
        int channels = number(facts, "channels");
        byte[] bytes = Files.read(file((String) facts.get("raw")), 1 << 28);
        return new ImageSource() {
            @Override
            public int width() {
                return width;
            }

            @Override
            public int height() {
                return height;
            }

            @Override
            public void block(int x, int y, int columns, int rows, int[] argb) {
                for (int i = 0; i < columns * rows; i++) {
                    argb[i] = at(x + i % columns, y + i / columns);
                }
            }

            private int at(int x, int y) {
                int at = (y * width + x) * channels;
                int alpha = channels == 4 ? bytes[at + 3] & 255 : 255;
                return alpha << 24 | (bytes[at] & 255) << 16 | (bytes[at + 1] & 255) << 8 | bytes[at + 2] & 255;
            }
        };
    }

    static ImageSource image(File file) {
        try {
            BufferedImage image = ImageIO.read(file);
            if (image == null) {
                throw new InputException(file + ": not a picture");
            }
            return new ImageSource() {
                @Override
                public int width() {
                    return image.getWidth();
                }

                @Override
                public int height() {
                    return image.getHeight();
                }

                @Override
                public void block(int x, int y, int columns, int rows, int[] argb) {
                    image.getRGB(x, y, columns, rows, argb, 0, columns);
                }
            };
        } catch (IOException error) {
            throw new InputException(file + ": " + error.getMessage());
        }
    }

    static Session.Photo photo(File file) {
        return () -> new Upright(image(file), 1);
    }

    /** One of the suite's images. */
    static Session.Photo photo(String image) {
        return photo(file("images/" + image));
    }

    /** What Python makes of a file that was written here (conformance/read_back.py). */
    static Object python(String... arguments) throws Exception {
        List<String> command =
                new ArrayList<>(
                        Arrays.asList(System.getProperty("himix.python"), "-m", "conformance.read_back"));
        command.addAll(Arrays.asList(arguments));
        Process process =
                new ProcessBuilder(command)
                        .directory(new File(System.getProperty("himix.root")))
                        .redirectError(ProcessBuilder.Redirect.INHERIT)
                        .start();
        String output = new String(process.getInputStream().readAllBytes(), "UTF-8");
        if (process.waitFor() != 0) {
            throw new AssertionError("failed: " + command);
        }
        return Json.parse(output);
    }
}
