package dev.himix.edge;

import java.util.ArrayList;
import java.util.HashSet;
import java.util.List;
import java.util.Set;

/** Tokenizer and chat template of one model. What a user types is never read as a special token. */
public final class TextProcessor {
    private static final String ANSWER = "."; // stands for an answer where only what comes behind one is encoded
    private static final int NORMALIZING = 4; // composed characters have fewer bytes than their parts

    private final Tokenizer tokenizer;
    private final ChatTemplate template;
    private final Set<Integer> stopIds = new HashSet<Integer>();

    public TextProcessor(Tokenizer tokenizer, ChatTemplate template) {
        this.tokenizer = tokenizer;
        this.template = template;
        for (String token : template.stop) {
            stopIds.add(specialId(token));
        }
    }

    /** Token ids of a question, up to where the answer starts. Throws InputException if it is empty. */
    public int[] encodeQuestion(String question) {
        return encodeQuestion(question, Integer.MAX_VALUE);
    }

    /** As above; a question that cannot be {@code room} tokens or fewer is refused before it is cut into them. */
    int[] encodeQuestion(String question, int room) {
        return encodeQuestion(question, room, "");
    }

    /** As above, behind a system message; "": the template's own, if it has one. */
    int[] encodeQuestion(String question, int room, String system) {
        String content = checked(question, room);
        if (!system.isEmpty() && !template.knowsSystem) {
            throw new InputException("this model's chat template has no system messages");
        }
        String said = system.isEmpty() ? template.defaultSystem : system;
        Encoder encoder = new Encoder("");
        encoder.template(template.bos);
        if (!said.isEmpty()) {
            encoder.template(template.system[0]);
            encoder.person(strip(said));
            encoder.template(template.system[1]);
        }
        encoder.turn(content);
        return encoder.finish();
    }

    /**
     * Token ids of a further question behind a finished answer. The answer's stop token is the last that was generated
     * and not yet in the cache, so it comes first.
     */
    int[] encodeNextTurn(String question, int room) {
        String content = checked(question, room);
        Encoder encoder = new Encoder(ANSWER);
        encoder.template(template.assistant[1]);
        encoder.turn(content);
        return encoder.finish();
    }

    private String checked(String question, int room) {
        if (question.length() / NORMALIZING > (long) room * tokenizer.longest()) {
            throw new InputException(
                    "the prompt does not fit: it has " + question.length() + " characters, the model's context has "
                            + "room for " + room + " tokens; shorten it");
        }
        String content = strip(question);
        if (content.isEmpty()) {
            throw new InputException("the prompt is empty; ask something about the image");
        }
        return content;
    }

    public boolean isStop(int token) {
        return stopIds.contains(token);
    }

    public TextStream stream() {
        return new TextStream(tokenizer);
    }

    private int specialId(String token) {
        int id = tokenizer.idOf(token);
        if (id < 0) {
            throw new InputException("chat_template: \"" + token + "\" is not a token of " + Bundle.TOKENIZER);
        }
        return id;
    }

    /** Text between two special tokens is encoded in one go, so that the ids equal those of the rendered string. */
    private final class Encoder {
        private final List<Integer> ids = new ArrayList<Integer>();
        private final StringBuilder run = new StringBuilder();
        private String before; // what stands in front of the first run, encoded already

        Encoder(String before) {
            this.before = before;
        }

        void turn(String content) {
            template(template.user[0]);
            person(content);
            template(template.user[1]);
            template(template.assistant[0]);
        }

        void person(String text) {
            run.append(text);
        }

        void template(String text) {
            int from = 0;
            for (int at = 0; at < text.length(); ) {
                String token = specialAt(text, at);
                if (token == null) {
                    at++;
                    continue;
                }
                run.append(text, from, at);
                flush();
                ids.add(specialId(token));
                at += token.length();
                from = at;
            }
            run.append(text, from, text.length());
        }

        private String specialAt(String text, int at) {
            String longest = null;
            for (String token : tokenizer.specialTokens()) {
                if (text.startsWith(token, at) && (longest == null || token.length() > longest.length())) {
                    longest = token;
                }
            }
            return longest;
        }

        private void flush() {
            List<Integer> head = tokenizer.encode(before);
            List<Integer> whole = tokenizer.encode(before + run);
            boolean apart = whole.size() >= head.size() && whole.subList(0, head.size()).equals(head);
            ids.addAll(apart ? whole.subList(head.size(), whole.size()) : tokenizer.encode(run.toString()));
            run.setLength(0);
            before = "";
        }

        int[] finish() {
            flush();
            int[] all = new int[ids.size()];
            for (int i = 0; i < all.length; i++) {
                all[i] = ids.get(i);
            }
            return all;
        }
    }

    /** Without white space at both ends, as Python's str.strip: Unicode's, and the four separators U+001C to U+001F. */
    static String strip(String text) {
        int from = 0;
        int to = text.length();
        while (from < to && isStripped(text.charAt(from))) {
            from++;
        }
        while (to > from && isStripped(text.charAt(to - 1))) {
            to--;
        }
        return text.substring(from, to);
    }

    private static boolean isStripped(char c) {
        return PreTokenizer.isSpace(c) || c >= 0x1C && c <= 0x1F;
    }
}
