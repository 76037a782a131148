package dev.himix.edge;

/** A picture turned as its EXIF orientation (1..8) says; anything else leaves it as it is. */
public final class Upright implements Rows {
    private final ImageSource image;
    private final int orientation;

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

    /** Row {@code y} of the upright picture, over white where it is transparent, as in {@link ImageSource#row}. */
    @Override
    public void row(int y, int[] argb) {
        switch (orientation) {
            case 2:
                image.row(y, argb);
                reverse(argb, width());
                break;
            case 3:
                image.row(height() - 1 - y, argb);
                reverse(argb, width());
                break;
            case 4:
                image.row(height() - 1 - y, argb);
                break;
            case 5:
                image.column(y, argb);
                break;
            case 6:
                image.column(y, argb);
                reverse(argb, width());
                break;
            case 7:
                image.column(height() - 1 - y, argb);
                reverse(argb, width());
                break;
            case 8:
                image.column(height() - 1 - y, argb);
                break;
            default:
                image.row(y, argb);
        }
        for (int x = 0; x < width(); x++) {
            argb[x] = overWhite(argb[x]);
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
