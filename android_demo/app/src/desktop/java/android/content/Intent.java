package android.content;

import android.net.Uri;
import java.util.HashMap;
import java.util.Map;

public class Intent {
    public final Map<String, Object> extras = new HashMap<>();
    public String action;
    public Class<?> activity;
    private Uri data;

    public Intent() {}

    public Intent(String action) {
        this.action = action;
    }

    public Intent(Context context, Class<?> activity) {
        this.activity = activity;
    }

    public Intent setType(String type) {
        return this;
    }

    public Intent addCategory(String category) {
        return this;
    }

    public Intent addFlags(int flags) {
        return this;
    }

    public Intent setData(Uri data) {
        this.data = data;
        return this;
    }

    public Uri getData() {
        return data;
    }

    public Intent putExtra(String name, String value) {
        extras.put(name, value);
        return this;
    }

    public Intent putExtra(String name, int value) {
        extras.put(name, value);
        return this;
    }

    public Intent putExtra(String name, android.os.Parcelable value) {
        extras.put(name, value);
        return this;
    }

    public Intent putExtra(String name, boolean value) {
        extras.put(name, value);
        return this;
    }

    public boolean getBooleanExtra(String name, boolean otherwise) {
        return extras.containsKey(name) ? (Boolean) extras.get(name) : otherwise;
    }

    public String getStringExtra(String name) {
        return (String) extras.get(name);
    }

    public int getIntExtra(String name, int otherwise) {
        return extras.containsKey(name) ? (Integer) extras.get(name) : otherwise;
    }
}
