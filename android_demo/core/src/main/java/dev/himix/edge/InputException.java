package dev.himix.edge;

/** Input that cannot be used. The message is one line for the person at the screen: what, where, what to do. */
public class InputException extends RuntimeException {
    private static final long serialVersionUID = 1;
    private static final int LONGEST = 600;

    public InputException(String message) {
        super(oneLine(message));
    }

    /** Files choose parts of a message: what would break the line, turn its direction or fill a screen goes. */
    static String oneLine(String text) {
        StringBuilder out = new StringBuilder();
        for (int at = 0; at < text.length(); ) {
            int code = text.codePointAt(at);
            at += Character.charCount(code);
            switch (Character.getType(code)) {
                case Character.CONTROL:
                case Character.FORMAT:
                case Character.LINE_SEPARATOR:
                case Character.PARAGRAPH_SEPARATOR:
                case Character.SURROGATE:
                    out.append('\uFFFD');
                    break;
                default:
                    out.appendCodePoint(code);
            }
            if (out.length() > LONGEST) {
                return out.append("...").toString();
            }
        }
        return out.toString();
    }
}
