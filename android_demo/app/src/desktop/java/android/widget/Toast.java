package android.widget;

import android.content.Context;

public class Toast {
    public static Toast makeText(Context context, int id, int duration) {
        return new Toast();
    }

    public void show() {}
}
