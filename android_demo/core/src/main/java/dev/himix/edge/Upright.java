package dev.himix.edge;

/**
 * A picture turned as its EXIF orientation (1..8) says; anything else leaves it as it is. Of a picture that lies on its
 * side, {@link #BAND} columns are fetched at a time: one by one, each would touch all of the picture's memory.
 */
public final class Upright implements Rows {
    static final int BAND = 64; // columns

    private final ImageSource image;
    private final int orientation;
    private int[] band; // columns from bandStart on, of the picture as it is stored
    private int bandStart = -1;

    public Upright(ImageSource image, int orientation) {
        this.image = image;
        this.orientation = orientation;
    }

    private boolean turned() {
        return orientation >= 5 && orientation <= 8;
    }

    @Override
    public int width() {
        return turned() ? image.height() : image.width();
    }

    @Override
    public int height() {
        return turned() ? image.width() : image.height();
    }

    /** Row {@code y} of the upright picture, over white where it is transparent, as in {@link ImageSource#block}. */
    @Override
    public void row(int y, int[] argb) {
        boolean last = orientation == 3 || orientation == 4 || orientation == 7 || orientation == 8;
        int stored = last ? height() - 1 - y : y;
        if (turned()) {
            column(stored, argb);
        } else {
            image.block(0, stored, image.width(), 1, argb);
        }
        if (orientation == 2 || orientation == 3 || orientation == 6 || orientation == 7) {
            reverse(argb, width());
        }
        for (int x = 0; x < width(); x++) {
            argb[x] = overWhite(argb[x]);
        }
    }

    private void column(int x, int[] argb) {
        int start = x - x % BAND;
        int columns = Math.min(BAND, image.width() - start);
        int height = image.height();
        if (start != bandStart) {
            if (band == null) {
                band = new int[Math.min(BAND, image.width()) * height];
            }
            image.block(start, 0, columns, height, band);
            bandStart = start;
        }
        for (int y = 0, at = x - start; y < height; y++, at += columns) {
            argb[y] = band[at];
        }
    }

    private static void reverse(int[] values, int count) {
        for (int i = 0, j = count - 1; i < j; i++, j--) {
            int kept = values[i];
            values[i] = values[j];
            values[j] = kept;
        }
    }

    /** Pillow's alpha_composite over opaque white, in its integers. */
    static int overWhite(int argb) {
        int alpha = argb >>> 24;
        if (alpha == 255) {
            return argb;
        }
        return 0xFF000000 | blend(argb >> 16 & 255, alpha) << 16 | blend(argb >> 8 & 255, alpha) << 8
                | blend(argb & 255, alpha);
    }

    private static int blend(int color, int alpha) {
        int sum = (color * alpha + 255 * (255 - alpha)) * 128 + (0x80 << 7);
        return ((sum >> 8) + sum >> 8) >> 7;
    }
}
