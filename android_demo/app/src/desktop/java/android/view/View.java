package android.view;

public class View {
    public boolean enabled = true;
    public CharSequence announced;
    public final int[] padding = {1, 2, 3, 4};
    private OnClickListener listener;
    private OnApplyWindowInsetsListener insetsListener;

    public interface OnClickListener {
        void onClick(View view);
    }

    public interface OnApplyWindowInsetsListener {
        WindowInsets onApplyWindowInsets(View view, WindowInsets insets);
    }

    public void setOnApplyWindowInsetsListener(OnApplyWindowInsetsListener listener) {
        insetsListener = listener;
    }

    /** As Android does whenever a bar or the keyboard comes or goes. */
    public WindowInsets dispatchApplyWindowInsets(WindowInsets insets) {
        return insetsListener.onApplyWindowInsets(this, insets);
    }

    public int getPaddingLeft() {
        return padding[0];
    }

    public int getPaddingTop() {
        return padding[1];
    }

    public int getPaddingRight() {
        return padding[2];
    }

    public int getPaddingBottom() {
        return padding[3];
    }

    public void setPadding(int left, int top, int right, int bottom) {
        System.arraycopy(new int[] {left, top, right, bottom}, 0, padding, 0, 4);
    }

    public void setOnClickListener(OnClickListener listener) {
        this.listener = listener;
    }

    public boolean performClick() {
        listener.onClick(this);
        return true;
    }

    public void setVisibility(int visibility) {}

    public void setEnabled(boolean enabled) {
        this.enabled = enabled;
    }

    public void announceForAccessibility(CharSequence text) {
        announced = text;
    }
}
