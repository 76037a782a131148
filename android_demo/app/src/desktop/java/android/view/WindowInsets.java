package android.view;

/** Bars of 10, 20, 30 and 40 pixels: left, above, right, below. */
public class WindowInsets {
    public int getSystemWindowInsetLeft() {
        return 10;
    }

    public int getSystemWindowInsetTop() {
        return 20;
    }

    public int getSystemWindowInsetRight() {
        return 30;
    }

    public int getSystemWindowInsetBottom() {
        return 40;
    }

    public WindowInsets consumeSystemWindowInsets() {
        return this;
    }
}
