package dev.himix.edge;

import java.awt.image.BufferedImage;
import java.io.File;
import java.io.IOException;
import java.util.List;
import java.util.Map;
import java.util.Arrays;
import javax.imageio.ImageIO;

/** What the Python session computed (android_demo/fixtures.py), and the bundle that it computed it from. */
final class Fixtures {
    static final File FOLDER = new File(System.getProperty("himix.fixtures"));
    static final File BUNDLE = new File(System.getProperty("himix.bundle"));
    private static Map<String, Object> all;
    private static Session session;

    private Fixtures() {}

    @SuppressWarnings("unchecked")
    static <T> T get(String name) {
        if (all == null) {
            all = (Map<String, Object>) Files.readJson(new File(FOLDER, "fixtures.json"), 64 << 20);
        }
        return (T) all.get(name);
    }

    static List<Map<String, Object>> cases(String name) {
        return get(name);
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
                public void row(int y, int[] argb) {
                    image.getRGB(0, y, width(), 1, argb, 0, width());
                }

                @Override
                public void column(int x, int[] argb) {
                    image.getRGB(x, 0, 1, height(), argb, 0, 1);
                }
            };
        } catch (IOException error) {
            throw new InputException(file + ": " + error.getMessage());
        }
    }

    static Session.Photo photo(File file) {
        return () -> new Upright(image(file), 1);
    }

    /** The himix-edge session in Python on our arguments; its standard output as JSON. */
    static Object python(String... arguments) throws Exception {
        String[] command = new String[arguments.length + 2];
        command[0] = System.getProperty("himix.python");
        command[1] = System.getProperty("himix.script");
        System.arraycopy(arguments, 0, command, 2, arguments.length);
        Process process = new ProcessBuilder(command).redirectError(ProcessBuilder.Redirect.INHERIT).start();
        String output = new String(process.getInputStream().readAllBytes(), "UTF-8");
        if (process.waitFor() != 0) {
            throw new AssertionError("failed: " + Arrays.toString(command));
        }
        return Json.parse(output);
    }
}
