package android.widget;

import android.content.Context;
import android.text.Editable;

public class EditText extends TextView {
    public EditText() {}

    public EditText(Context context) {}

    @Override
    public Editable getText() {
        CharSequence now = text;
        return new Editable() {
            @Override
            public int length() {
                return now.length();
            }

            @Override
            public char charAt(int at) {
                return now.charAt(at);
            }

            @Override
            public CharSequence subSequence(int from, int to) {
                return now.subSequence(from, to);
            }

            @Override
            public String toString() {
                return now.toString();
            }
        };
    }
}
