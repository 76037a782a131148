package android.app;

import android.content.Context;
import android.content.DialogInterface;
import android.view.View;

/** Remembers what was shown last, so that a test can choose from it, or fill it in and agree. */
public class AlertDialog implements DialogInterface {
    public static CharSequence[] shown;
    public static DialogInterface.OnClickListener choice;
    public static View view;
    public static DialogInterface.OnClickListener agree;

    @Override
    public void dismiss() {}

    public static class Builder {
        public Builder(Context context) {}

        public Builder setTitle(int title) {
            return this;
        }

        public Builder setView(View content) {
            view = content;
            return this;
        }

        public Builder setPositiveButton(int text, DialogInterface.OnClickListener listener) {
            agree = listener;
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
