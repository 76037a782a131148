package dev.himix.edge;

import java.io.File;
import java.nio.charset.StandardCharsets;
import java.text.Normalizer;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;

/**
 * Byte-level BPE as described by a Hugging Face tokenizer.json (GPT-2, SmolLM2, Qwen2, Llama 3). Special tokens in
 * plain text stay text; {@link TextProcessor} places them where the chat template has them.
 */
public final class Tokenizer {
    static final long MAX_BYTES = 64 << 20;
    private static final char[] BYTE_TO_CHAR = byteToChar();
    private static final int[] CHAR_TO_BYTE = charToByte();

    private final Map<String, Integer> vocab = new HashMap<String, Integer>();
    private final Map<Integer, byte[]> bytes = new HashMap<Integer, byte[]>();
    private final BpeMerger merger = new BpeMerger();
    private final Map<String, Integer> special = new HashMap<String, Integer>();
    private final Set<Integer> specialIds = new HashSet<Integer>();
    private final List<PreTokenizer> steps;
    private final boolean wholeWordsFirst;
    private final boolean compose; // NFC
    private final int[] byteIds = new int[256]; // -1: not in the vocabulary
    private int longest; // bytes of a token

    private Tokenizer(Fields json, int rows) {
        Fields model = json.object("model");
        String type = model.string("type", "BPE");
        if (!type.equals("BPE")) {
            throw new InputException("a " + type + " tokenizer; only byte-level BPE is supported");
        }
        if (!hasType(json, "decoder", "ByteLevel")) {
            throw new InputException("not a byte-level BPE (its decoder is another); it is not supported");
        }
        for (String field : new String[] {"unk_token", "continuing_subword_prefix", "end_of_word_suffix", "dropout"}) {
            if (model.has(field) && !"".equals(model.get(field))) {
                throw new InputException("model: " + field + " is not supported");
            }
        }
        if (model.has("byte_fallback") && model.flag("byte_fallback", false)) {
            throw new InputException("model: byte_fallback is not supported");
        }
        compose = hasType(json, "normalizer", "NFC");
        if (json.has("normalizer") && !compose) {
            throw new InputException("this normalizer is not supported; only NFC is");
        }
        if (!json.has("pre_tokenizer")) {
            throw new InputException("no pre_tokenizer; it is not supported");
        }
        steps = PreTokenizer.read(json.object("pre_tokenizer"));
        wholeWordsFirst = model.has("ignore_merges") && model.flag("ignore_merges", false);
        readVocabulary(model.object("vocab"), rows);
        readMerges(model.list("merges"));
        for (Fields token : json.has("added_tokens") ? json.objects("added_tokens") : Collections.<Fields>emptyList()) {
            readSpecial(token, rows);
        }
    }

    /**
     * Reads a tokenizer.json; {@code rows} of the model's embedding: no id lies beyond. Throws InputException saying
     * what is wrong or not supported.
     */
    public static Tokenizer load(File file, int rows) {
        Object json = Files.readJson(file, MAX_BYTES);
        try {
            return new Tokenizer(Fields.of(json, "it"), rows);
        } catch (InputException error) {
            throw new InputException(file + ": " + error.getMessage());
        }
    }

    private static boolean hasType(Fields json, String field, String type) {
        return json.has(field) && json.object(field).string("type").equals(type);
    }

    private void readVocabulary(Fields entries, int rows) {
        for (String token : entries.names()) {
            int id = (int) entries.integer(token, 0, rows - 1);
            byte[] spelled = decode(token);
            if (bytes.put(id, spelled) != null) {
                throw new InputException("model: vocab: two tokens have the id " + id);
            }
            vocab.put(token, id);
            longest = Math.max(longest, spelled.length);
        }
        if (vocab.isEmpty()) {
            throw new InputException("model: vocab: no tokens");
        }
        for (int b = 0; b < 256; b++) {
            Integer id = vocab.get(String.valueOf(BYTE_TO_CHAR[b]));
            byteIds[b] = id == null ? -1 : id;
        }
    }

    private void readMerges(List<Object> items) {
        for (int rank = 0; rank < items.size(); rank++) {
            Object item = items.get(rank);
            List<?> pair = item instanceof List ? (List<?>) item : Arrays.asList(String.valueOf(item).split(" "));
            Integer left = pair.size() == 2 ? vocab.get(pair.get(0)) : null;
            Integer right = pair.size() == 2 ? vocab.get(pair.get(1)) : null;
            Integer merged = left == null || right == null ? null : vocab.get("" + pair.get(0) + pair.get(1));
            if (merged == null) {
                throw new InputException("merges: " + item + " is not a pair of tokens of the vocabulary");
            }
            merger.add(left, right, rank, merged);
        }
    }

    private void readSpecial(Fields token, int rows) {
        String content = token.string("content");
        if (content.isEmpty()) {
            throw new InputException("added_tokens: one has no content");
        }
        if (!token.flag("special", false)) {
            throw new InputException("added token " + content + " is not special; it is not supported");
        }
        int id = (int) token.integer("id", 0, rows - 1);
        Integer known = special.containsKey(content) ? special.get(content) : vocab.get(content);
        if (known == null ? bytes.containsKey(id) || specialIds.contains(id) : known != id) {
            throw new InputException("added token " + content + ": its id " + id + " is not its own");
        }
        special.put(content, id);
        specialIds.add(id);
    }

    /** Token ids of plain text: nothing in it is read as a special token. */
    public List<Integer> encode(String text) {
        List<Integer> ids = new ArrayList<Integer>();
        text = wellFormed(text);
        List<String> pieces = Collections.singletonList(compose ? Normalizer.normalize(text, Normalizer.Form.NFC) : text);
        for (PreTokenizer step : steps) {
            pieces = step.split(pieces);
        }
        for (String piece : pieces) {
            encodeWord(piece.getBytes(StandardCharsets.UTF_8), ids);
        }
        return ids;
    }

    /** Half a surrogate pair is no character; Python never sees one. */
    private static String wellFormed(String text) {
        StringBuilder out = new StringBuilder(text.length());
        for (int at = 0; at < text.length(); ) {
            int code = text.codePointAt(at);
            at += Character.charCount(code);
            out.appendCodePoint(code >= 0xD800 && code <= 0xDFFF ? 0xFFFD : code);
        }
        return out.toString();
    }

    /** The most bytes that a token stands for. */
    int longest() {
        return longest;
    }

    private void encodeWord(byte[] word, List<Integer> ids) {
        if (wholeWordsFirst) {
            StringBuilder token = new StringBuilder();
            for (byte b : word) {
                token.append(BYTE_TO_CHAR[b & 255]);
            }
            Integer whole = vocab.get(token.toString());
            if (whole != null) {
                ids.add(whole);
                return;
            }
        }
        int[] symbols = new int[word.length];
        int count = 0;
        for (byte b : word) {
            if (byteIds[b & 255] >= 0) {
                symbols[count++] = byteIds[b & 255];
            }
        }
        count = merger.merge(symbols, count);
        for (int i = 0; i < count; i++) {
            ids.add(symbols[i]);
        }
    }

    /** The bytes that a token stands for: none for special tokens and ids without a token. */
    byte[] bytesOf(int id) {
        byte[] found = specialIds.contains(id) ? null : bytes.get(id);
        return found == null ? new byte[0] : found;
    }

    /** The id of a token, or -1. */
    public int idOf(String token) {
        Integer id = special.containsKey(token) ? special.get(token) : vocab.get(token);
        return id == null ? -1 : id;
    }

    /** The special tokens' texts. */
    public Set<String> specialTokens() {
        return special.keySet();
    }

    private static byte[] decode(String token) {
        byte[] out = new byte[token.length()];
        for (int i = 0; i < out.length; i++) {
            char c = token.charAt(i);
            int b = c < CHAR_TO_BYTE.length ? CHAR_TO_BYTE[c] : -1;
            if (b < 0) {
                return token.getBytes(StandardCharsets.UTF_8); // not in the byte alphabet: it stands for itself
            }
            out[i] = (byte) b;
        }
        return out;
    }

    /** GPT-2's alphabet: visible Latin-1 characters stand for themselves, other bytes for U+0100 and on. */
    private static char[] byteToChar() {
        char[] alphabet = new char[256];
        int next = 256;
        for (int b = 0; b < 256; b++) {
            boolean visible = b >= '!' && b <= '~' || b >= 0xA1 && b <= 0xAC || b >= 0xAE;
            alphabet[b] = (char) (visible ? b : next++);
        }
        return alphabet;
    }

    private static int[] charToByte() {
        int[] bytes = new int[324];
        Arrays.fill(bytes, -1);
        for (int b = 0; b < 256; b++) {
            bytes[BYTE_TO_CHAR[b]] = b;
        }
        return bytes;
    }
}
