package dev.himix.edge;

import java.util.List;

/** How a picture becomes tiles: preprocessing.layout, see "From a picture to tiles" in docs/bundle-format.md. */
final class ImageLayout {
    final String strategy;
    final Resize.Filter filter;
    final int longest;
    final boolean enlarge;
    final boolean split;
    final int leastTiles;
    final int mostTiles;
    final boolean thumbnail;
    final boolean wholeFirst;
    final int color; // RGB
    final int[][] grids; // rows and columns
    final boolean padSeveral;

    ImageLayout(Fields layout) {
        strategy = layout.string("strategy");
        filter = Resize.Filter.named(layout.string("filter"), layout);
        longest = (int) layout.integer("longest", 1, 4096);
        enlarge = layout.flag("enlarge", false);
        split = layout.flag("split", true);
        leastTiles = (int) layout.integer("least_tiles", 1, 64);
        mostTiles = (int) layout.integer("most_tiles", leastTiles, 64);
        thumbnail = layout.flag("thumbnail", true);
        wholeFirst = layout.flag("whole_first", false);
        int[] rgb = layout.integers("color", 0, 255);
        if (rgb.length != 3) {
            throw layout.wrong("color", "red, green and blue");
        }
        color = rgb[0] << 16 | rgb[1] << 8 | rgb[2];
        List<Object> pairs = layout.list("grids");
        grids = new int[pairs.size()][2];
        for (int i = 0; i < grids.length; i++) {
            List<?> pair = pairs.get(i) instanceof List ? (List<?>) pairs.get(i) : null;
            for (int j = 0; j < 2; j++) {
                Object side = pair != null && pair.size() == 2 ? pair.get(j) : null;
                if (!(side instanceof Long) || (Long) side < 1 || (Long) side > 64) {
                    throw layout.wrong("grids", "pairs of whole numbers in 1..64");
                }
                grids[i][j] = ((Long) side).intValue();
            }
        }
        padSeveral = layout.flag("pad_several", false);
    }
}
