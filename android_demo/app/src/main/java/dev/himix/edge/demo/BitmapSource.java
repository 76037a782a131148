package dev.himix.edge.demo;

import android.graphics.Bitmap;
import dev.himix.edge.ImageSource;

/** The pixels of a Bitmap. */
final class BitmapSource implements ImageSource {
    private final Bitmap bitmap;

    BitmapSource(Bitmap bitmap) {
        this.bitmap = bitmap;
    }

    @Override
    public int width() {
        return bitmap.getWidth();
    }

    @Override
    public int height() {
        return bitmap.getHeight();
    }

    @Override
    public void row(int y, int[] argb) {
        bitmap.getPixels(argb, 0, width(), 0, y, width(), 1);
    }

    @Override
    public void column(int x, int[] argb) {
        bitmap.getPixels(argb, 0, 1, x, 0, 1, height());
    }
}
