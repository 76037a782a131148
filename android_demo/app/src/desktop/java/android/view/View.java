package android.view;

public class View {
    public boolean enabled = true;
    public CharSequence announced;
    private OnClickListener listener;

    public interface OnClickListener {
        void onClick(View view);
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
