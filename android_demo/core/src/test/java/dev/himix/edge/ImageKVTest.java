package dev.himix.edge;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import java.io.File;
import java.nio.FloatBuffer;
import java.util.Arrays;
import java.util.Map;
import org.junit.Rule;
import org.junit.Test;
import org.junit.rules.TemporaryFolder;

/** Saved images travel between this session and the Python one. */
public class ImageKVTest {
    @Rule public final TemporaryFolder folder = new TemporaryFolder();

    @Test
    public void pythonsFileIsReadAndAnswersTheSame() {
        Map<String, Object> saved = Fixtures.answers("image_kv");
        ImageKV image = ImageKV.load(Fixtures.file((String) saved.get("file")));
        assertEquals(saved.get("model_id"), image.modelId);
        assertEquals(saved.get("key_sha256"), Files.sha256(bytes(image.numbers(true))));
        assertEquals(saved.get("value_sha256"), Files.sha256(bytes(image.numbers(false))));
        Answer answer = new Answer();
        Fixtures.session().generate((String) saved.get("prompt"), image, Answer.greedy(16), answer);
        assertArrayEquals(Fixtures.ints(saved.get("token_ids")), answer.ids());
        ImageKV ours = Fixtures.session().encodeImage(Fixtures.photo((String) saved.get("image")));
        assertEquals(image.modelId, ours.modelId);
        double most = 0;
        float[] theirKeys = image.numbers(true);
        float[] ourKeys = ours.numbers(true);
        for (int i = 0; i < ourKeys.length; i++) {
            most = Math.max(most, Math.abs(ourKeys[i] - theirKeys[i]));
        }
        assertTrue("keys differ by " + most, most < 0.2);
    }

    @Test
    public void pythonReadsOursAndAnswersTheSame() throws Exception {
        Session session = Fixtures.session();
        File file = folder.newFile("ours.image_kv");
        ImageKV image = session.encodeImage(Fixtures.photo("easy-vqa-5.png"));
        image.save(file);
        Map<?, ?> theirs =
                (Map<?, ?>) Fixtures.python("image-kv", Fixtures.BUNDLE.getPath(), file.getPath(), "Describe the image.");
        Answer answer = new Answer();
        session.generate("Describe the image.", image, Answer.greedy(16), answer);
        assertArrayEquals(Fixtures.ints(theirs.get("token_ids")), answer.ids());
        assertTrue(answer.tokens.size() >= 3);
    }

    @Test
    public void savedAndLoadedIsEqual() throws Exception {
        File file = folder.newFile();
        ImageKV image = Fixtures.session().encodeImage(Fixtures.photo("easy-vqa-7.png"));
        image.save(file);
        ImageKV again = ImageKV.load(file);
        assertArrayEquals(image.numbers(true), again.numbers(true), 0);
        assertArrayEquals(image.numbers(false), again.numbers(false), 0);
        assertEquals(image.tokens, again.tokens);
        assertEquals(262144 + 8, file.length() - headerLength(file), 0);
    }

    @Test
    public void halvesAreRoundedToTheNearestAndSavedAsFloats() throws Exception {
        Fixtures.loadRuntime();
        float[] numbers = {1, -2.5f, 65504, 1e-8f, 0.1f, 3.1415927f};
        ImageKV image = new ImageKV(true, 1, 1, 3, 2, "abc", 0);
        image.fill(FloatBuffer.wrap(numbers), FloatBuffer.wrap(numbers));
        assertEquals(24, image.bytes());
        float[] rounded = {1, -2.5f, 65504, 0, 0.099975586f, 3.140625f};
        assertArrayEquals(rounded, image.numbers(false), 0);
        File file = folder.newFile();
        image.save(file);
        assertArrayEquals(rounded, ImageKV.load(file).numbers(true), 0);
        for (int bits = 0; bits < 1 << 16; bits++) {
            float value = Half.toFloat((short) bits);
            if (!Float.isNaN(value)) {
                assertEquals(bits, Half.of(value) & 0xFFFF);
            }
            float next = Half.toFloat((short) (bits + 1));
            if ((bits & 0x7FFF) < 0x7BFF) { // the middle of two neighbours goes to the even one, what is beside it nearer
                float middle = (value + next) / 2;
                assertEquals(bits + (bits & 1), Half.of(middle) & 0xFFFF);
                assertEquals(bits + (value < next ? 0 : 1), Half.of(Math.nextDown(middle)) & 0xFFFF);
                assertEquals(bits + (value < next ? 1 : 0), Half.of(Math.nextUp(middle)) & 0xFFFF);
            }
        }
        assertEquals(0x7C00, Half.of(65520) & 0xFFFF);
        assertEquals(0xFC00, Half.of(Float.NEGATIVE_INFINITY) & 0xFFFF);
        assertTrue(Float.isNaN(Half.toFloat(Half.of(Float.NaN))));
    }

    private static byte[] bytes(float[] values) {
        java.nio.ByteBuffer buffer = java.nio.ByteBuffer.allocate(4 * values.length).order(java.nio.ByteOrder.LITTLE_ENDIAN);
        buffer.asFloatBuffer().put(values);
        return buffer.array();
    }

    private static long headerLength(File file) {
        byte[] bytes = Files.read(file, 1 << 24);
        return java.nio.ByteBuffer.wrap(bytes).order(java.nio.ByteOrder.LITTLE_ENDIAN).getLong();
    }

    @Test
    public void anotherModelsImageIsRefused() {
        Fixtures.loadRuntime();
        ImageKV other = new ImageKV(false, 1, 1, 1, 4, "abc", 0);
        InputException error =
                assertThrows(
                        InputException.class,
                        () -> Fixtures.session().generate("What?", other, Answer.greedy(4), new Answer()));
        assertTrue(error.getMessage(), error.getMessage().startsWith("this ImageKV was made by another model (abc"));
    }

    @Test
    public void damagedFilesAreRefused() throws Exception {
        Fixtures.loadRuntime();
        long before = NativeMemory.inUse();
        byte[] good = Files.read(Fixtures.file("hostile/good.image_kv"), 1 << 24);
        File file = folder.newFile("bad.image_kv");
        byte[] longHeader = good.clone();
        longHeader[6] = 1;
        byte[] format = new String(good, 0, 400, "ISO-8859-1").replace("kv-1", "kv-2").getBytes("ISO-8859-1");
        byte[] otherFormat = good.clone();
        System.arraycopy(format, 0, otherFormat, 0, 400);
        byte[][] bad = {
            {}, {1, 2, 3}, Arrays.copyOf(good, good.length - 1), Arrays.copyOf(good, 100), longHeader, otherFormat,
            new byte[1000], "GIF89a and so on, a picture".getBytes("US-ASCII"),
        };
        for (byte[] bytes : bad) {
            Files.write(file, bytes);
            InputException error = assertThrows(InputException.class, () -> ImageKV.load(file));
            assertTrue(error.getMessage(), error.getMessage().startsWith(file + ": damaged or not a saved ImageKV"));
        }
        InputException error = assertThrows(InputException.class, () -> ImageKV.load(new File("/no/such")));
        assertEquals("/no/such: no such file", error.getMessage());
        assertEquals("what was begun is given back", before, NativeMemory.inUse());
    }
}
