package dev.himix.edge;

/** A decoded picture whose rows and columns can be read: an Android Bitmap, or an array. */
public interface ImageSource {
    int width();

    int height();

    /** Row {@code y} into {@code argb}: one int a pixel, 8 bits each of alpha (not premultiplied), red, green, blue. */
    void row(int y, int[] argb);

    /** Column {@code x}, from top to bottom. */
    void column(int x, int[] argb);
}
