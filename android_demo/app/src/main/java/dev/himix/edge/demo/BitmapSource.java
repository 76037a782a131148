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
    public void block(int x, int y, int width, int height, int[] argb) {
        bitmap.getPixels(argb, 0, width, x, y, width, height);
    }
}
