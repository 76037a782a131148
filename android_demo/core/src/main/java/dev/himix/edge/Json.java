package dev.himix.edge;

import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.regex.Pattern;

/**
 * Reads and writes JSON (RFC 8259): objects as {@code Map<String, Object>}, arrays as {@code List<Object>}, strings,
 * {@code Long} for integers that fit, {@code Double}, {@code Boolean} and null.
 */
public final class Json {
    private static final int MAX_DEPTH = 64;
    private static final Pattern NUMBER = Pattern.compile("-?(0|[1-9][0-9]*)(\\.[0-9]+)?([eE][+-]?[0-9]+)?");

    private final String text;
    private int at;

    private Json(String text) {
        this.text = text;
    }

    /** Parses one value. Throws InputException saying what is wrong at which character. */
    public static Object parse(String text) {
        Json reader = new Json(text);
        Object value = reader.value(0);
        reader.space();
        if (reader.at < text.length()) {
            throw reader.wrong("something behind the end");
        }
        return value;
    }

    private Object value(int depth) {
        if (depth > MAX_DEPTH) {
            throw wrong("nested deeper than " + MAX_DEPTH);
        }
        space();
        char first = peek();
        switch (first) {
            case '{':
                return object(depth);
            case '[':
                return array(depth);
            case '"':
                return string();
            case 't':
                return word("true", Boolean.TRUE);
            case 'f':
                return word("false", Boolean.FALSE);
            case 'n':
                return word("null", null);
            default:
                return number();
        }
    }

    private Map<String, Object> object(int depth) {
        Map<String, Object> members = new LinkedHashMap<String, Object>();
        at++;
        space();
        if (peek() == '}') {
            at++;
            return members;
        }
        while (true) {
            space();
            if (peek() != '"') {
                throw wrong("expected a name in quotes");
            }
            String name = string();
            space();
            expect(':');
            if (members.containsKey(name)) {
                throw wrong("\"" + name + "\" appears twice");
            }
            members.put(name, value(depth + 1));
            space();
            if (peek() == '}') {
                at++;
                return members;
            }
            expect(',');
        }
    }

    private List<Object> array(int depth) {
        List<Object> items = new ArrayList<Object>();
        at++;
        space();
        if (peek() == ']') {
            at++;
            return items;
        }
        while (true) {
            items.add(value(depth + 1));
            space();
            if (peek() == ']') {
                at++;
                return items;
            }
            expect(',');
        }
    }

    private String string() {
        StringBuilder out = new StringBuilder();
        at++;
        while (true) {
            char c = peek();
            at++;
            if (c == '"') {
                return wellFormed(out.toString());
            } else if (c == '\\') {
                out.append(escape());
            } else if (c < ' ') {
                throw wrong("a control character inside a string");
            } else {
                out.append(c);
            }
        }
    }

    /** Half a surrogate pair is no character; it would be written as another one. */
    private String wellFormed(String found) {
        for (int i = 0; i < found.length(); i++) {
            if (Character.isSurrogate(found.charAt(i))) {
                if (!Character.isSupplementaryCodePoint(found.codePointAt(i))) {
                    throw wrong("half a surrogate pair");
                }
                i++;
            }
        }
        return found;
    }

    private char escape() {
        char c = peek();
        at++;
        switch (c) {
            case '"':
            case '\\':
            case '/':
                return c;
            case 'b':
                return '\b';
            case 'f':
                return '\f';
            case 'n':
                return '\n';
            case 'r':
                return '\r';
            case 't':
                return '\t';
            case 'u':
                int code = 0;
                for (int i = 0; i < 4; i++) {
                    int digit = Character.digit(peek(), 16);
                    if (digit < 0) {
                        throw wrong("a damaged \\u escape");
                    }
                    code = code * 16 + digit;
                    at++;
                }
                return (char) code;
            default:
                throw wrong("an unknown escape \\" + c);
        }
    }

    private Object number() {
        int from = at;
        while (at < text.length() && "+-.eE0123456789".indexOf(text.charAt(at)) >= 0) {
            at++;
        }
        String digits = text.substring(from, at);
        if (!NUMBER.matcher(digits).matches()) {
            throw wrong("not a JSON value");
        }
        if (digits.length() <= 18 && digits.indexOf('.') < 0 && digits.indexOf('e') < 0 && digits.indexOf('E') < 0) {
            return Long.valueOf(digits);
        }
        Double number = Double.valueOf(digits);
        if (number.isInfinite()) {
            throw wrong("a number beyond what a computer holds");
        }
        return number;
    }

    private Object word(String word, Object value) {
        if (!text.startsWith(word, at)) {
            throw wrong("not a JSON value");
        }
        at += word.length();
        return value;
    }

    private void space() {
        while (at < text.length() && " \t\r\n".indexOf(text.charAt(at)) >= 0) {
            at++;
        }
    }

    private char peek() {
        if (at >= text.length()) {
            throw wrong("it ends too early");
        }
        return text.charAt(at);
    }

    private void expect(char c) {
        if (peek() != c) {
            throw wrong("expected '" + c + "'");
        }
        at++;
    }

    private InputException wrong(String what) {
        return new InputException("not valid JSON (" + what + ", at character " + at + ")");
    }

    /** Writes maps, collections, strings, numbers, booleans and null. Numbers have to be finite. */
    public static String write(Object value) {
        StringBuilder out = new StringBuilder();
        write(value, out, "\n");
        return out.append('\n').toString();
    }

    private static void write(Object value, StringBuilder out, String newline) {
        if (value instanceof Map) {
            String separator = "{";
            for (Map.Entry<?, ?> member : ((Map<?, ?>) value).entrySet()) {
                out.append(separator).append(newline).append(' ');
                quote((String) member.getKey(), out);
                out.append(": ");
                write(member.getValue(), out, newline + " ");
                separator = ",";
            }
            out.append(((Map<?, ?>) value).isEmpty() ? "{}" : newline + "}");
        } else if (value instanceof Iterable) {
            String separator = "";
            out.append('[');
            for (Object item : (Iterable<?>) value) {
                out.append(separator);
                write(item, out, newline + " ");
                separator = ", ";
            }
            out.append(']');
        } else if (value instanceof String) {
            quote((String) value, out);
        } else if (value instanceof Double && (((Double) value).isNaN() || ((Double) value).isInfinite())) {
            throw new IllegalArgumentException("JSON has no " + value);
        } else {
            out.append(value);
        }
    }

    private static void quote(String text, StringBuilder out) {
        out.append('"');
        for (int i = 0; i < text.length(); i++) {
            char c = text.charAt(i);
            if (c == '"' || c == '\\') {
                out.append('\\').append(c);
            } else if (c < ' ' || Character.isSurrogate(c)) {
                out.append(String.format(java.util.Locale.ROOT, "\\u%04x", (int) c));
            } else {
                out.append(c);
            }
        }
        out.append('"');
    }
}
