package android.widget;

import android.content.res.ColorStateList;
import android.os.Standin;
import android.view.KeyEvent;
import android.view.View;

public class TextView extends View {
    public int color;
    protected CharSequence text = "";

    public interface OnEditorActionListener {
        boolean onEditorAction(TextView view, int action, KeyEvent event);
    }

    public final void setText(CharSequence text) {
        this.text = text;
    }

    public final void setText(int id) {
        text = Standin.string(id);
    }

    public final void setHint(int id) {}

    public CharSequence getText() {
        return text;
    }

    public final ColorStateList getTextColors() {
        return ColorStateList.valueOf(color);
    }

    public void setTextColor(int color) {
        this.color = color;
    }

    public void setTextColor(ColorStateList colors) {
        color = colors.getDefaultColor();
    }

    public void setOnEditorActionListener(OnEditorActionListener listener) {}
}
