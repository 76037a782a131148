package android.os;

import java.util.HashMap;
import java.util.Map;

public final class Bundle {
    private final Map<String, Integer> values = new HashMap<>();

    public void putInt(String name, int value) {
        values.put(name, value);
    }

    public int getInt(String name) {
        return values.getOrDefault(name, 0);
    }
}
