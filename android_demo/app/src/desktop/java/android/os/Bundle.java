package android.os;

import java.util.HashMap;
import java.util.Map;

public final class Bundle {
    private final Map<String, Object> values = new HashMap<>();

    public void putInt(String name, int value) {
        values.put(name, value);
    }

    public int getInt(String name) {
        return (Integer) values.getOrDefault(name, 0);
    }

    public void putString(String name, String value) {
        values.put(name, value);
    }

    public String getString(String name) {
        return (String) values.get(name);
    }

    public void putBoolean(String name, boolean value) {
        values.put(name, value);
    }

    public boolean getBoolean(String name) {
        return (Boolean) values.getOrDefault(name, false);
    }
}
