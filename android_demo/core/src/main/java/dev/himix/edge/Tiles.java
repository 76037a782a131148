package dev.himix.edge;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;

/**
 * A picture cut into square tiles, bit for bit as the Python package cuts it (himix_edge/tiles.py): the pixels of
 * models whose pictures stand in the text. The app's session does not read such models yet.
 */
final class Tiles {
    private static final int MOST_ROWS_SIDE = 4096; // of "rows"
    private static final long MOST_SCALED = 1L << 26; // pixels of a resizing, between its passes too
    private static final long MOST_PADDED = 1L << 28;

    /** S * S * 3 bytes each, RGB, in their order. */
    final List<byte[]> pixels = new ArrayList<byte[]>();

    int rows; // of the grid; 0 where the whole picture is alone
    int columns;

    private final int size;
    private final ImageLayout layout;

    private Tiles(int size, ImageLayout layout) {
        this.size = size;
        this.layout = layout;
    }

    /**
     * Cuts an upright picture; {@code alone}: it is the only one of its message. Throws InputException for one that is
     * too long and thin, and for a strategy that is not known here.
     */
    static Tiles cut(Rows picture, int size, ImageLayout layout, boolean alone) {
        Tiles tiles = new Tiles(size, layout);
        boolean padded = layout.strategy.equals("pad") || layout.padSeveral && !alone;
        if (padded) {
            int side = Math.max(picture.width(), picture.height());
            tiles.add(tiles.square(new Framed(picture, side, side, layout.color, MOST_PADDED)));
        } else if (layout.strategy.equals("squash")) {
            tiles.add(tiles.square(picture));
        } else if (layout.strategy.equals("crop")) {
            tiles.crop(picture);
        } else if (layout.strategy.equals("rows")) {
            tiles.rows(picture);
        } else if (layout.strategy.equals("grid")) {
            tiles.grid(picture);
        } else if (layout.strategy.equals("whole_tiles")) {
            tiles.wholeTiles(picture);
        } else if (layout.strategy.equals("anyres")) {
            tiles.anyRes(picture);
        } else {
            throw new InputException("pictures as " + layout.strategy + " are not known to this app; refused");
        }
        return tiles;
    }

    private void crop(Rows picture) {
        int shorter = Math.min(picture.width(), picture.height());
        int longer = (int) ((double) ((long) size * Math.max(picture.width(), picture.height())) / shorter);
        boolean upright = picture.width() == shorter;
        Rgb scaled = scaled(picture, upright ? size : longer, upright ? longer : size, layout.filter);
        add(scaled.part((scaled.width - size) / 2, (scaled.height - size) / 2, size, size));
    }

    private void rows(Rows picture) {
        double ratio = (double) picture.width() / picture.height();
        boolean wide = picture.width() >= picture.height();
        int width = wide ? layout.longest : even((int) (layout.longest * ratio));
        int height = wide ? even((int) (layout.longest / ratio)) : layout.longest;
        width = Math.min(Math.max(width, 1), MOST_ROWS_SIDE);
        height = Math.min(Math.max(height, 1), MOST_ROWS_SIDE);
        Rgb scaled = scaled(picture, width, height, layout.filter);
        if (!layout.split) {
            add(square(scaled));
            return;
        }
        ratio = (double) width / height;
        if (width >= height) {
            width = up(width);
            height = up((int) (width / ratio));
        } else {
            height = up(height);
            width = up((int) (height * ratio));
        }
        scaled = scaled(scaled, width, height, layout.filter);
        addGrid(scaled, true);
        if (rows > 0) {
            add(square(scaled));
        }
    }

    private void grid(Rows picture) {
        int[] grid = {1, 1};
        double nearest = Double.POSITIVE_INFINITY;
        double shape = (double) picture.width() / picture.height();
        for (int area = layout.leastTiles; area <= layout.mostTiles; area++) {
            for (int across = 1; across <= area; across++) {
                if (area % across == 0) {
                    int down = area / across;
                    double difference = Math.abs(shape - (double) across / down);
                    boolean filled = (double) picture.width() * picture.height() > 0.5 * size * size * area;
                    if (difference < nearest || difference == nearest && filled) {
                        grid = new int[] {across, down};
                        nearest = difference;
                    }
                }
            }
        }
        addGrid(scaled(picture, grid[0] * size, grid[1] * size, layout.filter), true);
        if (rows > 0 && layout.thumbnail) {
            add(square(picture));
        }
    }

    private void wholeTiles(Rows picture) {
        int longer = Math.max(picture.width(), picture.height());
        int shorter = Math.min(picture.width(), picture.height());
        int across = layout.enlarge ? layout.longest : Math.min(layout.longest, up(longer));
        int down = Math.max((int) Math.ceil(shorter * ((double) across / longer) / size), 1) * size;
        boolean wide = picture.width() >= picture.height();
        Rgb scaled = scaled(picture, wide ? across : down, wide ? down : across, layout.filter);
        addGrid(scaled, layout.thumbnail);
        if (rows > 0 && layout.thumbnail) {
            byte[] whole = scaled(scaled, size, size, Resize.Filter.BILINEAR).bytes;
            pixels.add(layout.wholeFirst ? 0 : pixels.size(), whole);
        }
    }

    private void anyRes(Rows picture) {
        int w = picture.width();
        int h = picture.height();
        int[] best = layout.grids[0];
        long most = 0;
        long least = Long.MAX_VALUE;
        for (int[] grid : layout.grids) {
            double scale = Math.min((double) grid[1] * size / w, (double) grid[0] * size / h);
            long kept = Math.min((long) (w * scale) * (long) (h * scale), (long) w * h);
            long waste = (long) grid[0] * grid[1] * size * size - kept;
            if (kept > most || kept == most && waste < least) {
                best = grid;
                most = kept;
                least = waste;
            }
        }
        int width = best[1] * size;
        int height = best[0] * size;
        double across = (double) width / w;
        double down = (double) height / h;
        int innerWidth = across < down ? width : Math.min((int) Math.ceil(w * down), width);
        int innerHeight = across < down ? Math.min((int) Math.ceil(h * across), height) : height;
        add(square(picture));
        Rgb inner = scaled(picture, innerWidth, innerHeight, layout.filter);
        addGrid(Rgb.of(new Framed(inner, width, height, 0, MOST_SCALED)), false);
    }

    private void add(Rgb tile) {
        pixels.add(tile.bytes);
    }

    /** All tiles row by row; {@code alone}: a single one is no grid. */
    private void addGrid(Rgb picture, boolean alone) {
        for (int top = 0; top < picture.height; top += size) {
            for (int left = 0; left < picture.width; left += size) {
                add(picture.part(left, top, size, size));
            }
        }
        boolean single = alone && picture.width == size && picture.height == size;
        rows = single ? 0 : picture.height / size;
        columns = single ? 0 : picture.width / size;
    }

    private Rgb square(Rows picture) {
        return scaled(picture, size, size, layout.filter);
    }

    private static Rgb scaled(Rows picture, int width, int height, Resize.Filter filter) {
        if ((long) width * Math.max(picture.height(), height) > MOST_SCALED) {
            throw thin(picture);
        }
        return new Rgb(width, height, Resize.to(picture, width, height, filter));
    }

    private static InputException thin(Rows picture) {
        return new InputException(
                picture.width() + " x " + picture.height() + " pixels are too long and thin for this model");
    }

    private int up(int side) {
        return (side + size - 1) / size * size;
    }

    private static int even(int side) {
        return side + side % 2;
    }

    /** A picture in the middle of a larger one of one color. */
    private static final class Framed implements Rows {
        private final Rows inner;
        private final int width;
        private final int height;
        private final int color;
        private final int[] line;

        Framed(Rows inner, int width, int height, int color, long most) {
            if ((long) width * height > most) {
                throw thin(inner);
            }
            this.inner = inner;
            this.width = width;
            this.height = height;
            this.color = color;
            line = new int[inner.width()];
        }

        @Override
        public int width() {
            return width;
        }

        @Override
        public int height() {
            return height;
        }

        @Override
        public void row(int y, int[] argb) {
            Arrays.fill(argb, 0, width, color);
            int inside = y - (height - inner.height()) / 2;
            if (inside >= 0 && inside < inner.height()) {
                inner.row(inside, line);
                System.arraycopy(line, 0, argb, (width - inner.width()) / 2, line.length);
            }
        }
    }

    /** Pixels in memory. */
    private static final class Rgb implements Rows {
        final int width;
        final int height;
        final byte[] bytes;

        Rgb(int width, int height, byte[] bytes) {
            this.width = width;
            this.height = height;
            this.bytes = bytes;
        }

        static Rgb of(Rows picture) {
            int width = picture.width();
            byte[] bytes = new byte[width * picture.height() * 3];
            int[] row = new int[width];
            for (int y = 0, at = 0; y < picture.height(); y++) {
                picture.row(y, row);
                for (int x = 0; x < width; x++) {
                    bytes[at++] = (byte) (row[x] >> 16);
                    bytes[at++] = (byte) (row[x] >> 8);
                    bytes[at++] = (byte) row[x];
                }
            }
            return new Rgb(width, picture.height(), bytes);
        }

        Rgb part(int left, int top, int width, int height) {
            byte[] part = new byte[width * height * 3];
            for (int y = 0; y < height; y++) {
                System.arraycopy(bytes, ((top + y) * this.width + left) * 3, part, y * width * 3, width * 3);
            }
            return new Rgb(width, height, part);
        }

        @Override
        public int width() {
            return width;
        }

        @Override
        public int height() {
            return height;
        }

        @Override
        public void row(int y, int[] argb) {
            for (int x = 0, at = y * width * 3; x < width; x++, at += 3) {
                argb[x] = (bytes[at] & 255) << 16 | (bytes[at + 1] & 255) << 8 | bytes[at + 2] & 255;
            }
        }
    }
}
