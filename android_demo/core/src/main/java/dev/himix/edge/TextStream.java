package dev.himix.edge;

/** Turns token ids into printable text as they come; holds back bytes of an unfinished character. */
public final class TextStream {
    private static final int REPLACEMENT = 0xFFFD;

    private final Tokenizer tokenizer;
    private byte[] held = {};

    TextStream(Tokenizer tokenizer) {
        this.tokenizer = tokenizer;
    }

    /** The text that {@code token} completes; empty while a character is incomplete. */
    public String step(int token) {
        byte[] more = tokenizer.bytesOf(token);
        byte[] all = java.util.Arrays.copyOf(held, held.length + more.length);
        System.arraycopy(more, 0, all, held.length, more.length);
        String text = decode(all);
        boolean unfinished = text.endsWith("\uFFFD");
        held = unfinished ? all : new byte[0];
        return unfinished ? "" : text;
    }

    /** What was held back when the answer ended. */
    public String rest() {
        String text = decode(held);
        held = new byte[0];
        return text;
    }

    /**
     * UTF-8 with U+FFFD for each maximal part of a character that is not completed (Unicode 15, 3.9, table 3-7). Java's
     * own decoders differ from each other in how many they write.
     */
    static String decode(byte[] bytes) {
        StringBuilder out = new StringBuilder();
        for (int at = 0; at < bytes.length; ) {
            int lead = bytes[at++] & 255;
            int more = lead < 0x80 ? 0 : lead < 0xC2 ? -1 : lead < 0xE0 ? 1 : lead < 0xF0 ? 2 : lead < 0xF5 ? 3 : -1;
            int low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
            int high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
            int code = more <= 0 ? lead : lead & 0x3F >> more;
            for (int left = more; left > 0; left--) {
                int next = at < bytes.length ? bytes[at] & 255 : -1;
                if (next < low || next > high) {
                    more = -1;
                    break;
                }
                at++;
                code = code << 6 | next & 0x3F;
                low = 0x80;
                high = 0xBF;
            }
            out.appendCodePoint(more < 0 ? REPLACEMENT : code);
        }
        return out.toString();
    }
}
