package dev.himix.edge;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import java.io.File;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import org.junit.Test;

/** A bundle whose graphs take a cache of half precision: half the memory, and the same answers. */
public class HalfCacheTest {
    @Test
    public void cacheAndImagesAreHalfAsLarge() {
        Fixtures.session();
        Bundle bundle = Bundle.open(new File(System.getProperty("himix.half")));
        long before = NativeMemory.inUse();
        Session session = Session.open(bundle, 2);
        long whole = bundle.model.cacheBytesPerToken() * bundle.capacity;
        long engine = NativeMemory.inUse() - before;
        assertTrue(engine + " bytes, " + whole + " in floats", engine > whole / 2 && engine < 3 * whole / 4);
        List<Map<String, Object>> questions = Fixtures.questions();
        int equal = 0;
        for (Map<String, Object> question : questions) {
            ImageKV image = session.encodeImage(Fixtures.photo((String) question.get("image")));
            assertEquals(bundle.model.cacheBytesPerToken() / 2 * bundle.visionTokens, image.bytes());
            Answer answer = new Answer();
            session.generate((String) question.get("prompt"), image, Answer.greedy(16), answer);
            equal += Arrays.equals(Fixtures.ints(question.get("token_ids")), answer.ids()) ? 1 : 0;
            image.close();
        }
        assertTrue(equal + " of " + questions.size() + " answers are those of floats", equal >= 0.98 * questions.size());
        saved(session);
        session.close();
        assertEquals(before, NativeMemory.inUse());
    }

    @Test
    public void aTensorOfAnotherTypeIsRefused() {
        Fixtures.session();
        Bundle bundle = Bundle.open(new File(System.getProperty("himix.half")));
        OnnxGraph decoder = new OnnxGraph(bundle.roleFile("decoder"), 1);
        long[] shape = {1, bundle.model.keyValueHeads, bundle.capacity, bundle.model.headDim};
        decoder.expect(false, "past_key_values.0.key", OnnxGraph.Tensor.FLOAT16, shape);
        InputException error = assertThrows(
                InputException.class,
                () -> decoder.expect(false, "past_key_values.0.key", OnnxGraph.Tensor.FLOAT, shape));
        assertTrue(error.getMessage(), error.getMessage().endsWith("holds numbers of ONNX's type 10, this app takes type 1"));
        decoder.close();
    }

    /** A file that Python wrote is float32 and goes into the half cache all the same. */
    private static void saved(Session session) {
        Map<String, Object> facts = Fixtures.answers("image_kv");
        ImageKV image = ImageKV.load(Fixtures.file((String) facts.get("file")));
        Answer answer = new Answer();
        session.generate((String) facts.get("prompt"), image, Answer.greedy(16), answer);
        assertEquals(Arrays.toString(Fixtures.ints(facts.get("token_ids"))), Arrays.toString(answer.ids()));
        image.close();
    }
}
