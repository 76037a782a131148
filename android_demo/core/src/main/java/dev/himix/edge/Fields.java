package dev.himix.edge;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.regex.Pattern;

/** A JSON object whose fields are read with their types; a field that is wrong is named in the error. */
final class Fields {
    private static final Pattern DIGEST = Pattern.compile("[0-9a-f]{64}");
    private static final Pattern NAME = Pattern.compile("[A-Za-z0-9_][A-Za-z0-9._-]{0,127}");

    private final Map<String, Object> members;
    private final String where;

    private Fields(Map<String, Object> members, String where) {
        this.members = members;
        this.where = where;
    }

    /** {@code where} stands in front of every error: the file, then the path inside it. */
    @SuppressWarnings("unchecked")
    static Fields of(Object value, String where) {
        if (!(value instanceof Map)) {
            throw new InputException(where + ": expected a JSON object");
        }
        return new Fields((Map<String, Object>) value, where);
    }

    Iterable<String> names() {
        return members.keySet();
    }

    boolean has(String name) {
        return members.get(name) != null;
    }

    Object get(String name) {
        return members.get(name);
    }

    /** Throws InputException for a field that is not one of these: what it means is not known here. */
    void only(String... known) {
        for (String name : members.keySet()) {
            if (!Arrays.asList(known).contains(name)) {
                throw new InputException(where + ": " + name + " is not known to this app; refused");
            }
        }
    }

    Fields object(String name) {
        return of(need(name), where + ": " + name);
    }

    String string(String name) {
        Object value = need(name);
        if (!(value instanceof String)) {
            throw wrong(name, "a string");
        }
        return (String) value;
    }

    String string(String name, String otherwise) {
        return members.containsKey(name) ? string(name) : otherwise;
    }

    /** Lower-case hexadecimal SHA-256. */
    String digest(String name) {
        String digest = string(name);
        if (!DIGEST.matcher(digest).matches()) {
            throw wrong(name, "64 hexadecimal digits");
        }
        return digest;
    }

    /** Letters, digits, '.', '_' and '-': nothing that a shell or a file system reads otherwise. */
    String plainName(String field) {
        String name = string(field);
        if (!isPlainName(name)) {
            throw wrong(field, "at most 128 of A-Z a-z 0-9 . _ -, no dot or dash in front");
        }
        return name;
    }

    static boolean isPlainName(String name) {
        return NAME.matcher(name).matches();
    }

    boolean flag(String name, boolean otherwise) {
        if (!members.containsKey(name)) {
            return otherwise;
        }
        if (!(members.get(name) instanceof Boolean)) {
            throw wrong(name, "true or false");
        }
        return (Boolean) members.get(name);
    }

    long integer(String name, long least, long most) {
        Object value = need(name);
        if (!(value instanceof Long) || (Long) value < least || (Long) value > most) {
            throw wrong(name, "a whole number in " + least + ".." + most);
        }
        return (Long) value;
    }

    /** A number in least..most, both included. */
    double number(String name, double least, double most) {
        Object value = need(name);
        double number = value instanceof Number ? ((Number) value).doubleValue() : Double.NaN;
        if (!(number >= least && number <= most)) {
            throw wrong(name, "a number in " + least + ".." + most);
        }
        return number;
    }

    List<Object> list(String name) {
        Object value = need(name);
        if (!(value instanceof List)) {
            throw wrong(name, "an array");
        }
        return new ArrayList<Object>((List<?>) value);
    }

    List<Fields> objects(String name) {
        List<Fields> objects = new ArrayList<Fields>();
        for (Object item : list(name)) {
            objects.add(of(item, where + ": " + name));
        }
        return objects;
    }

    List<String> strings(String name) {
        List<String> strings = new ArrayList<String>();
        for (Object item : list(name)) {
            if (!(item instanceof String)) {
                throw wrong(name, "an array of strings");
            }
            strings.add((String) item);
        }
        return strings;
    }

    int[] integers(String name, int least, int most) {
        List<Object> items = list(name);
        int[] integers = new int[items.size()];
        for (int i = 0; i < integers.length; i++) {
            Object item = items.get(i);
            if (!(item instanceof Long) || (Long) item < least || (Long) item > most) {
                throw wrong(name, "an array of whole numbers in " + least + ".." + most);
            }
            integers[i] = ((Long) item).intValue();
        }
        return integers;
    }

    InputException wrong(String name, String expected) {
        return new InputException(where + ": " + name + " has to be " + expected);
    }

    private Object need(String name) {
        Object value = members.get(name);
        if (value == null) {
            throw new InputException(where + ": " + name + " is missing");
        }
        return value;
    }
}
