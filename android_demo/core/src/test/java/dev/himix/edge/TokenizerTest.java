package dev.himix.edge;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import java.io.File;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import org.junit.Rule;
import org.junit.Test;
import org.junit.rules.TemporaryFolder;

/** Token ids, chat template and streamed text against Hugging Face's tokenizers. */
public class TokenizerTest {
    @Rule public final TemporaryFolder folder = new TemporaryFolder();

    private static final List<String> UNSUPPORTED = Arrays.asList("qwen2", "llama-bpe"); // added tokens that are plain text

    @Test
    @SuppressWarnings("unchecked")
    public void idsEqualPythons() {
        int tokenizers = 0;
        for (String name : supported()) {
            Map<String, Object> cases = Fixtures.json("tokenizers/" + name + "/cases.json");
            Tokenizer tokenizer = tokenizer(name);
            TextProcessor text = text(name);
            for (Map<String, Object> example : (List<Map<String, Object>>) cases.get("texts")) {
                String input = (String) example.get("text");
                int[] ids = tokenizer.encode(input).stream().mapToInt(i -> i).toArray();
                assertArrayEquals(name + ": " + input, Fixtures.ints(example.get("ids")), ids);
                if (example.containsKey("question")) {
                    int[] question = Fixtures.ints(example.get("question"));
                    assertArrayEquals(name + ": " + input, question, text.encodeQuestion(input));
                }
            }
            for (Object empty : (List<?>) cases.get("empty")) {
                assertThrows(InputException.class, () -> text.encodeQuestion((String) empty));
            }
            tokenizers++;
        }
        assertTrue(tokenizers >= 5);
    }

    @Test
    public void addedTokensThatAreTextAreRefused() {
        for (String name : UNSUPPORTED) {
            InputException error = assertThrows(name, InputException.class, () -> tokenizer(name));
            assertTrue(error.getMessage(), error.getMessage().contains("is not special; it is not supported"));
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
    @SuppressWarnings("unchecked")
    public void streamedTextEqualsPythons() {
        for (String name : supported()) {
            Map<String, Object> cases = Fixtures.json("tokenizers/" + name + "/cases.json");
            List<Map<String, Object>> streams = new ArrayList<>((List<Map<String, Object>>) cases.get("streams"));
            streams.addAll((List<Map<String, Object>>) cases.get("texts"));
            assertTrue(streams.size() > 500);
            TextProcessor text = text(name);
            for (Map<String, Object> example : streams) {
                TextStream stream = text.stream();
                int[] ids = Fixtures.ints(example.get("ids"));
                List<?> pieces = (List<?>) example.get("pieces");
                for (int i = 0; i < ids.length; i++) {
                    assertEquals(name + ": " + example.get("ids") + " at " + i, pieces.get(i), stream.step(ids[i]));
                }
            }
        }
    }

    @SuppressWarnings("unchecked")
    private static List<String> supported() {
        List<String> names = new ArrayList<>((List<String>) Fixtures.json("suite.json").get("tokenizers"));
        assertTrue(names.removeAll(UNSUPPORTED));
        return names;
    }

    private static Tokenizer tokenizer(String name) {
        int rows = Fixtures.number(Fixtures.json("tokenizers/" + name + "/cases.json"), "rows");
        return Tokenizer.load(Fixtures.file("tokenizers/" + name + "/tokenizer.json"), rows);
    }

    private static TextProcessor text(String name) {
        String template = "tokenizers/" + name + "/chat_template.json";
        return new TextProcessor(tokenizer(name), new ChatTemplate(Fields.of(Fixtures.json(template), template)));
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
