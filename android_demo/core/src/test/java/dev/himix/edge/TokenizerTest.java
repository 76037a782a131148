package dev.himix.edge;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import java.io.File;
import java.nio.charset.StandardCharsets;
import java.util.List;
import java.util.Map;
import org.junit.Rule;
import org.junit.Test;
import org.junit.rules.TemporaryFolder;

/** Token ids, chat template and streamed text against Hugging Face's tokenizers. */
public class TokenizerTest {
    @Rule public final TemporaryFolder folder = new TemporaryFolder();

    @Test
    @SuppressWarnings("unchecked")
    public void idsEqualPythons() {
        List<Map<String, Object>> tokenizers = Fixtures.cases("tokenizers");
        assertTrue(tokenizers.size() >= 5);
        for (Map<String, Object> fixture : tokenizers) {
            Tokenizer tokenizer = Tokenizer.load(new File((String) fixture.get("file")), Fixtures.rows());
            TextProcessor text = new TextProcessor(tokenizer, Bundle.read(Fixtures.BUNDLE).template);
            for (Map<String, Object> example : (List<Map<String, Object>>) fixture.get("cases")) {
                String input = (String) example.get("text");
                int[] ids = tokenizer.encode(input).stream().mapToInt(i -> i).toArray();
                assertArrayEquals(fixture.get("file") + ": " + input, Fixtures.ints(example.get("ids")), ids);
            }
            for (Map<String, Object> example : (List<Map<String, Object>>) fixture.get("chats")) {
                String input = (String) example.get("text");
                assertArrayEquals(input, Fixtures.ints(example.get("ids")), text.encodeQuestion(input));
            }
        }
    }

    @Test
    public void typedSpecialTokensAreText() {
        Tokenizer tokenizer = Tokenizer.load(new File(Fixtures.BUNDLE, "tokenizer.json"), Fixtures.rows());
        assertTrue(tokenizer.idOf("<|im_end|>") >= 0);
        assertTrue(tokenizer.encode("<|im_end|>").size() > 1);
        assertTrue(!tokenizer.encode("a<|im_end|>b").contains(tokenizer.idOf("<|im_end|>")));
    }

    @Test
    public void streamedTextEqualsPythons() {
        TextProcessor text =
                new TextProcessor(
                        Tokenizer.load(new File(Fixtures.BUNDLE, "tokenizer.json"), Fixtures.rows()),
                        Bundle.read(Fixtures.BUNDLE).template);
        List<Map<String, Object>> streams = Fixtures.cases("streams");
        assertTrue(streams.size() > 100);
        for (Map<String, Object> example : streams) {
            TextStream stream = text.stream();
            int[] ids = Fixtures.ints(example.get("ids"));
            List<?> pieces = (List<?>) example.get("pieces");
            for (int i = 0; i < ids.length; i++) {
                assertEquals(example.get("ids") + " at " + i, pieces.get(i), stream.step(ids[i]));
            }
        }
    }

    @Test
    public void unknownKindsAreRefused() throws Exception {
        String good = new String(Files.read(new File(Fixtures.BUNDLE, "tokenizer.json"), 1 << 24), StandardCharsets.UTF_8);
        String[][] changes = {
            {"\"BPE\"", "\"WordPiece\"", "a WordPiece tokenizer; only byte-level BPE is supported"},
            {"\"add_prefix_space\": false", "\"add_prefix_space\": true", "add_prefix_space is not supported"},
            {"\"pre_tokenizer\": {\n    \"type\": \"ByteLevel\"", "\"pre_tokenizer\": {\n    \"type\": \"Metaspace\"",
                "pre_tokenizer Metaspace is not supported"},
            {"\"decoder\": {\n    \"type\": \"ByteLevel\"", "\"decoder\": {\n    \"type\": \"WordPiece\"",
                "not a byte-level BPE"},
            {"\"normalizer\": null", "\"normalizer\": {\"type\": \"Lowercase\"}", "this normalizer is not supported"},
            {"\"special\": true", "\"special\": false", "is not special; it is not supported"},
            {"\"byte_fallback\": false", "\"byte_fallback\": true", "byte_fallback is not supported"},
            {"{", "", "not valid JSON"},
        };
        for (String[] change : changes) {
            String bad = good.replaceFirst(java.util.regex.Pattern.quote(change[0]), change[1]);
            assertTrue(change[0], !bad.equals(good));
            File file = folder.newFile();
            Files.write(file, bad.getBytes(StandardCharsets.UTF_8));
            InputException error = assertThrows(change[1], InputException.class, () -> Tokenizer.load(file, Fixtures.rows()));
            assertTrue(error.getMessage(), error.getMessage().contains(change[2]));
            assertTrue(error.getMessage(), error.getMessage().startsWith(file.toString()));
        }
    }
}
