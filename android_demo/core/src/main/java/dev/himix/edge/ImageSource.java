package dev.himix.edge;

/** A decoded picture whose pixels can be read: an Android Bitmap, or an array. */
public interface ImageSource {
    int width();

    int height();

    /**
     * A part of the picture into {@code argb}, row by row: one int a pixel, 8 bits each of alpha (not premultiplied),
     * red, green, blue.
     *
     * @param x left column.
     * @param y upper row.
     */
    void block(int x, int y, int width, int height, int[] argb);
}
