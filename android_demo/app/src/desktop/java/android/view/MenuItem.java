package android.view;

public interface MenuItem {
    int getItemId();

    default MenuItem setChecked(boolean checked) {
        return this;
    }

    default MenuItem setEnabled(boolean enabled) {
        return this;
    }

    default MenuItem setVisible(boolean visible) {
        return this;
    }
}
