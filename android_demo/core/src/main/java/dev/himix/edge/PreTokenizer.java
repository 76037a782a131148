package dev.himix.edge;

import java.util.ArrayList;
import java.util.List;

/**
 * Cuts text into the words that BPE works on. The usual regular expressions are written out as scanners, since the
 * engines of desktop Java and Android differ in what \s and \p{L} mean.
 */
abstract class PreTokenizer {
    private static final int MOST_STEPS = 16; // each goes over the whole text
    private static final String CONTRACTIONS_FIRST = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|";
    private static final String REST = "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

    /** Where the piece that starts at {@code from} ends. */
    abstract int end(String text, int from);

    final List<String> split(List<String> pieces) {
        List<String> cut = new ArrayList<String>();
        for (String piece : pieces) {
            for (int from = 0; from < piece.length(); ) {
                int to = end(piece, from);
                cut.add(piece.substring(from, to));
                from = to;
            }
        }
        return cut;
    }

    /** The steps of a tokenizer.json's "pre_tokenizer". Throws InputException for a kind that is not known here. */
    static List<PreTokenizer> read(Fields fields) {
        List<PreTokenizer> steps = new ArrayList<PreTokenizer>();
        String type = fields.string("type");
        if (type.equals("Sequence")) {
            for (Fields step : fields.objects("pretokenizers")) {
                steps.addAll(read(step));
                if (steps.size() > MOST_STEPS) {
                    throw new InputException("more than " + MOST_STEPS + " pre_tokenizers; refused");
                }
            }
        } else if (type.equals("ByteLevel")) {
            if (fields.flag("add_prefix_space", true)) {
                throw new InputException("ByteLevel with add_prefix_space is not supported");
            }
            if (fields.flag("use_regex", true)) {
                steps.add(new Gpt2());
            }
        } else if (type.equals("Digits")) {
            steps.add(new Digits(fields.flag("individual_digits", false)));
        } else if (type.equals("Split")) {
            String pattern = fields.object("pattern").string("Regex", "");
            boolean isolated = fields.string("behavior").equals("Isolated") && !fields.flag("invert", false);
            if (isolated && pattern.equals(CONTRACTIONS_FIRST + "\\p{N}" + REST)) {
                steps.add(new Llama3(1));
            } else if (isolated && pattern.equals(CONTRACTIONS_FIRST + "\\p{N}{1,3}" + REST)) {
                steps.add(new Llama3(3));
            } else {
                throw new InputException("this Split pattern is not supported: " + pattern);
            }
        } else {
            throw new InputException("pre_tokenizer " + type + " is not supported");
        }
        return steps;
    }

    /** GPT-2: contractions; words, numbers and signs, each with at most one space in front; white space. */
    static final class Gpt2 extends PreTokenizer {
        @Override
        int end(String text, int from) {
            int end = contraction(text, from, false);
            if (end > from) {
                return end;
            }
            int start = text.charAt(from) == ' ' ? from + 1 : from;
            if (start < text.length()) {
                int kind = kind(text.codePointAt(start));
                if (kind != SPACE) {
                    return run(text, start, kind, Integer.MAX_VALUE);
                }
            }
            return spaces(text, from);
        }
    }

    /** Llama 3 and, with one digit at a time, Qwen2. */
    static final class Llama3 extends PreTokenizer {
        private final int digits;

        Llama3(int digits) {
            this.digits = digits;
        }

        @Override
        int end(String text, int from) {
            int end = contraction(text, from, true);
            if (end > from) {
                return end;
            }
            int first = text.codePointAt(from);
            int kind = kind(first);
            int second = from + Character.charCount(first);
            boolean lead = kind != LETTER && kind != NUMBER && first != '\r' && first != '\n';
            int word = lead ? second : from;
            if (word < text.length() && kind(text.codePointAt(word)) == LETTER) {
                return run(text, word, LETTER, Integer.MAX_VALUE);
            }
            if (kind == NUMBER) {
                return run(text, from, NUMBER, digits);
            }
            int signs = first == ' ' ? second : from;
            if (signs < text.length() && kind(text.codePointAt(signs)) == OTHER) {
                end = run(text, signs, OTHER, Integer.MAX_VALUE);
                while (end < text.length() && isNewline(text.charAt(end))) {
                    end++;
                }
                return end;
            }
            for (end = run(text, from, SPACE, Integer.MAX_VALUE); end > from; end--) {
                if (isNewline(text.charAt(end - 1))) {
                    return end;
                }
            }
            return spaces(text, from);
        }

        private static boolean isNewline(char c) {
            return c == '\r' || c == '\n';
        }
    }

    /** Numbers apart from everything else, digit by digit or as a whole. */
    static final class Digits extends PreTokenizer {
        private final boolean individual;

        Digits(boolean individual) {
            this.individual = individual;
        }

        @Override
        int end(String text, int from) {
            if (kind(text.codePointAt(from)) == NUMBER) {
                return run(text, from, NUMBER, individual ? 1 : Integer.MAX_VALUE);
            }
            int at = from;
            while (at < text.length() && kind(text.codePointAt(at)) != NUMBER) {
                at += Character.charCount(text.codePointAt(at));
            }
            return at;
        }
    }

    private static final int SPACE = 0;
    private static final int LETTER = 1;
    private static final int NUMBER = 2;
    private static final int OTHER = 3;

    private static int kind(int codePoint) {
        if (isSpace(codePoint)) {
            return SPACE;
        }
        switch (Character.getType(codePoint)) {
            case Character.UPPERCASE_LETTER:
            case Character.LOWERCASE_LETTER:
            case Character.TITLECASE_LETTER:
            case Character.MODIFIER_LETTER:
            case Character.OTHER_LETTER:
                return LETTER;
            case Character.DECIMAL_DIGIT_NUMBER:
            case Character.LETTER_NUMBER:
            case Character.OTHER_NUMBER:
                return NUMBER;
            default:
                return OTHER;
        }
    }

    /** Unicode's White_Space; neither Java's isWhitespace nor its isSpaceChar is that. */
    static boolean isSpace(int c) {
        return c >= 9 && c <= 13 || c == ' ' || c == 0x85 || c == 0xA0 || c == 0x1680 || c >= 0x2000 && c <= 0x200A
                || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
    }

    private static int run(String text, int from, int kind, int most) {
        int at = from;
        for (int n = 0; n < most && at < text.length() && kind(text.codePointAt(at)) == kind; n++) {
            at += Character.charCount(text.codePointAt(at));
        }
        return at;
    }

    /** White space in front of a word leaves its last character to the word. All white space is one char long. */
    private static int spaces(String text, int from) {
        int end = run(text, from, SPACE, Integer.MAX_VALUE);
        return end == text.length() || end == from + 1 ? end : end - 1;
    }

    private static int contraction(String text, int from, boolean anyCase) {
        if (text.charAt(from) == '\'') {
            for (String ending : new String[] {"s", "t", "re", "ve", "m", "ll", "d"}) {
                if (text.regionMatches(anyCase, from + 1, ending, 0, ending.length())) {
                    return from + 1 + ending.length();
                }
            }
        }
        return from;
    }
}
