package dev.himix.edge;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import java.io.File;
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
        assertEquals(saved.get("key_sha256"), Files.sha256(bytes(image.key)));
        assertEquals(saved.get("value_sha256"), Files.sha256(bytes(image.value)));
        Answer answer = new Answer();
        Fixtures.session().generate((String) saved.get("prompt"), image, Answer.greedy(16), answer);
        assertArrayEquals(Fixtures.ints(saved.get("token_ids")), answer.ids());
        ImageKV ours = Fixtures.session().encodeImage(Fixtures.photo((String) saved.get("image")));
        assertEquals(image.modelId, ours.modelId);
        double most = 0;
        for (int i = 0; i < ours.key.length; i++) {
            most = Math.max(most, Math.abs(ours.key[i] - image.key[i]));
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
        assertArrayEquals(image.key, again.key, 0);
        assertArrayEquals(image.value, again.value, 0);
        assertEquals(image.tokens, again.tokens);
        assertEquals(262144 + 8, file.length() - headerLength(file), 0);
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
        ImageKV other = new ImageKV(new float[4], new float[4], 1, 1, 1, 4, "abc", 0);
        InputException error =
                assertThrows(
                        InputException.class,
                        () -> Fixtures.session().generate("What?", other, Answer.greedy(4), new Answer()));
        assertTrue(error.getMessage(), error.getMessage().startsWith("this ImageKV was made by another model (abc"));
    }

    @Test
    public void damagedFilesAreRefused() throws Exception {
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
    }
}
