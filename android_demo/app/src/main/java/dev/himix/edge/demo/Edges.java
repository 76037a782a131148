package dev.himix.edge.demo;

import android.view.View;
import android.view.WindowInsets;

/** From Android 15 on an app is drawn behind the system's bars and the keyboard: a screen keeps off them by padding. */
final class Edges {
    private Edges() {}

    /** Adds to a view's own padding what the system's bars, the cutout and the keyboard cover. */
    static void pad(View root) {
        final int left = root.getPaddingLeft();
        final int top = root.getPaddingTop();
        final int right = root.getPaddingRight();
        final int bottom = root.getPaddingBottom();
        root.setOnApplyWindowInsetsListener(new View.OnApplyWindowInsetsListener() {
            @Override
            public WindowInsets onApplyWindowInsets(View view, WindowInsets insets) {
                view.setPadding(
                        left + insets.getSystemWindowInsetLeft(), top + insets.getSystemWindowInsetTop(),
                        right + insets.getSystemWindowInsetRight(), bottom + insets.getSystemWindowInsetBottom());
                return insets.consumeSystemWindowInsets();
            }
        });
    }
}
