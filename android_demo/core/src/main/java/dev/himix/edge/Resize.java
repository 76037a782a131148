package dev.himix.edge;

import java.util.Locale;

/**
 * Pillow's resize, BILINEAR, BICUBIC or LANCZOS, bit for bit: a filter whose support grows with the reduction, weights
 * of 22 fractional bits, the horizontal pass first, each pass rounded to 8 bits. At S x S nothing changes.
 */
public final class Resize {
    private static final int FRACTION = 22;

    /** The filters that a manifest can ask for. */
    public enum Filter {
        BILINEAR("pillow-bilinear-squash", 1) {
            @Override
            double at(double x) {
                double distance = Math.abs(x);
                return distance < 1 ? 1 - distance : 0;
            }
        },
        /** Keys' cubic with a = -0.5. */
        BICUBIC("pillow-bicubic-squash", 2) {
            @Override
            double at(double x) {
                double a = -0.5;
                double distance = Math.abs(x);
                if (distance < 1) {
                    return ((a + 2) * distance - (a + 3)) * distance * distance + 1;
                }
                return distance < 2 ? (((distance - 5) * distance + 8) * distance - 4) * a : 0;
            }
        },
        /** Of tiles alone: no manifest's method has it. */
        LANCZOS("", 3) {
            @Override
            double at(double x) {
                return -3 <= x && x < 3 ? wave(x) * wave(x / 3) : 0;
            }

            private double wave(double x) {
                return x == 0 ? 1 : Math.sin(x * Math.PI) / (x * Math.PI);
            }
        };

        final String method;
        final double support;

        Filter(String method, double support) {
            this.method = method;
            this.support = support;
        }

        abstract double at(double x);

        static Filter of(String method, String where) {
            for (Filter filter : values()) {
                if (filter != LANCZOS && filter.method.equals(method)) {
                    return filter;
                }
            }
            throw new InputException(where + ": preprocessing: method " + method + " is not supported");
        }

        /** The filter of a layout, by its short name. */
        static Filter named(String name, Fields layout) {
            for (Filter filter : values()) {
                if (filter.name().toLowerCase(Locale.ROOT).equals(name)) {
                    return filter;
                }
            }
            throw layout.wrong("filter", "bilinear, bicubic or lanczos");
        }
    }

    private Resize() {}

    /** One output value is the weighted sum of {@code weights.length} inputs from {@code first} on. */
    private static final class Window {
        final int first;
        final int[] weights;

        Window(int first, int[] weights) {
            this.first = first;
            this.weights = weights;
        }

        int end() {
            return first + weights.length;
        }
    }

    /**
     * A picture as the S x S pixels of a model. Rows are read one by one and added up at once: memory is that of S rows
     * of S columns, however large the picture is.
     *
     * @return S * S * 3 bytes, RGB.
     */
    public static byte[] toSquare(Upright image, int size, Filter filter) {
        PictureFile.checkSize(image.width(), image.height());
        return to(image, size, size, filter);
    }

    /** A picture with other sides, {@code toWidth} x {@code toHeight}: RGB, 3 bytes a pixel. Memory is the result's. */
    static byte[] to(Rows image, int toWidth, int toHeight, Filter filter) {
        int width = image.width();
        int height = image.height();
        Window[] across = width == toWidth ? null : windows(width, toWidth, filter);
        Window[] down = height == toHeight ? null : windows(height, toHeight, filter);
        int stride = toWidth * 3;
        int[] sums = new int[down == null ? 0 : toHeight * stride];
        byte[] out = new byte[toHeight * stride];
        byte[] narrow = new byte[stride];
        int[] row = new int[width];
        int open = 0; // the first output row that is not complete
        for (int y = 0; y < height; y++) {
            image.row(y, row);
            for (int x = 0; x < toWidth; x++) {
                for (int channel = 0; channel < 3; channel++) {
                    int shift = 16 - 8 * channel;
                    int value = across == null ? row[x] >> shift & 255 : sum(row, across[x], shift);
                    narrow[x * 3 + channel] = (byte) value;
                }
            }
            if (down == null) {
                System.arraycopy(narrow, 0, out, y * stride, stride);
                continue;
            }
            while (open < toHeight && down[open].end() <= y) {
                open++;
            }
            for (int to = open; to < toHeight && down[to].first <= y; to++) {
                add(narrow, down[to].weights[y - down[to].first], sums, to * stride);
            }
        }
        for (int i = 0; i < sums.length; i++) {
            out[i] = (byte) clip(sums[i] + (1 << FRACTION - 1));
        }
        return out;
    }

    private static void add(byte[] line, int weight, int[] sums, int to) {
        for (int i = 0; i < line.length; i++) {
            sums[to + i] += (line[i] & 255) * weight;
        }
    }

    private static int sum(int[] row, Window window, int shift) {
        int sum = 1 << FRACTION - 1;
        for (int i = 0; i < window.weights.length; i++) {
            sum += (row[window.first + i] >> shift & 255) * window.weights[i];
        }
        return clip(sum);
    }

    private static int clip(int sum) {
        return Math.max(0, Math.min(255, sum >> FRACTION));
    }

    private static Window[] windows(int from, int to, Filter filter) {
        double scale = (double) from / to;
        double stretch = Math.max(scale, 1);
        double support = filter.support * stretch;
        Window[] windows = new Window[to];
        for (int i = 0; i < to; i++) {
            double center = (i + 0.5) * scale;
            int first = Math.max((int) (center - support + 0.5), 0);
            int end = Math.min((int) (center + support + 0.5), from);
            double[] weights = new double[end - first];
            double total = 0;
            for (int j = 0; j < weights.length; j++) {
                weights[j] = filter.at((j + first - center + 0.5) * (1 / stretch));
                total += weights[j];
            }
            int[] fixed = new int[weights.length];
            for (int j = 0; j < fixed.length; j++) {
                double weight = (total == 0 ? weights[j] : weights[j] / total) * (1 << FRACTION);
                fixed[j] = (int) (weight < 0 ? weight - 0.5 : weight + 0.5);
            }
            windows[i] = new Window(first, fixed);
        }
        return windows;
    }
}
