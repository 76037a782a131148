package dev.himix.edge;

import java.util.ArrayList;
import java.util.List;
import java.util.Map;

/** A JSON object whose fields are read with their types; a field that is wrong is named in the error. */
final class Fields {
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
        return has(name) ? string(name) : otherwise;
    }

    boolean flag(String name, boolean otherwise) {
        if (!has(name)) {
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

    double number(String name) {
        Object value = need(name);
        if (!(value instanceof Number)) {
            throw wrong(name, "a number");
        }
        return ((Number) value).doubleValue();
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
