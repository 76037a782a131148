package android.app;

import android.content.Context;
import android.content.DialogInterface;

/** Remembers the last list that was shown, so that a test can choose from it. */
public class AlertDialog implements DialogInterface {
    public static CharSequence[] shown;
    public static DialogInterface.OnClickListener choice;

    @Override
    public void dismiss() {}

    public static class Builder {
        public Builder(Context context) {}

        public Builder setTitle(int title) {
            return this;
        }

        public Builder setSingleChoiceItems(CharSequence[] items, int checked, DialogInterface.OnClickListener listener) {
            shown = items;
            choice = listener;
            return this;
        }

        public AlertDialog show() {
            return new AlertDialog();
        }
    }
}
