package dev.himix.edge;

/** An opaque picture that is read row by row. */
interface Rows {
    int width();

    int height();

    /** Row {@code y} into {@code argb}, one int a pixel; its first 8 bits do not count. */
    void row(int y, int[] argb);
}
