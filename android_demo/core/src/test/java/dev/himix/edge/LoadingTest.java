package dev.himix.edge;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertSame;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import java.lang.management.BufferPoolMXBean;
import java.lang.management.ManagementFactory;
import org.junit.After;
import org.junit.Before;
import org.junit.Test;

/** What opening takes and gives back: graphs, and memory outside Java's heap. */
public class LoadingTest {
    private long memory;
    private int graphs;

    @Before
    public void before() throws Exception {
        Fixtures.session();
        long held = -1;
        for (int equal = 0; equal < 3; equal = held == NativeMemory.inUse() ? equal + 1 : 0) { // what other tests left
            held = NativeMemory.inUse();
            collect();
        }
        memory = NativeMemory.inUse();
        graphs = OnnxGraph.openGraphs();
    }

    @After
    public void nothingIsLeft() {
        assertEquals(graphs, OnnxGraph.openGraphs());
        assertEquals(memory, NativeMemory.inUse());
    }

    @Test
    public void cacheAndImagesAreOutsideTheHeap() {
        Bundle bundle = Bundle.open(Fixtures.BUNDLE);
        long direct = direct();
        Session session = Session.open(bundle, 1);
        long cache = bundle.model.cacheBytesPerToken() * bundle.capacity;
        long engine = NativeMemory.inUse() - memory;
        assertTrue(engine + " bytes for a cache of " + cache, engine > cache);
        ImageKV image = session.encodeImage(Fixtures.photo("easy-vqa-0.png"));
        session.generate("Describe the image.", image, Answer.greedy(4), new Answer());
        assertEquals(bundle.model.cacheBytesPerToken() * bundle.visionTokens, image.bytes());
        assertEquals(memory + engine + image.bytes(), NativeMemory.inUse());
        assertTrue("buffers that Java counts", direct() - direct < 1 << 16);
        session.close();
        assertEquals(graphs, OnnxGraph.openGraphs());
        image.close();
        image.close();
        assertThrows(InputException.class, () -> image.numbers(true));
    }

    @Test
    public void aClosedImageIsRefusedAndNothingElse() {
        Session session = Fixtures.session();
        ImageKV image = session.encodeImage(Fixtures.photo("easy-vqa-0.png"));
        image.close();
        InputException error = assertThrows(
                InputException.class, () -> session.generate("What?", image, Answer.greedy(1), new Answer()));
        assertEquals("this ImageKV is closed; encode the image again", error.getMessage());
        session.generate("What is it?", Fixtures.photo("easy-vqa-0.png"), Answer.greedy(1), new Answer());
    }

    @Test
    public void anImageThatNobodyHoldsIsGivenBack() throws Exception {
        long own = new ImageKV(false, 4, 4, 4, 4, "abc", 0).bytes();
        for (int tries = 0; NativeMemory.inUse() > memory && tries < 100; tries++) {
            collect();
        }
        assertTrue(own > 0);
    }

    private static void collect() throws InterruptedException {
        System.gc();
        Thread.sleep(20);
        new ImageKV(false, 1, 1, 1, 1, "abc", 0).close();
    }

    /** An error of any kind, wherever it comes, leaves no graph and no memory behind. */
    @Test
    public void whateverIsThrownClosesWhatWasOpened() {
        Bundle bundle = Bundle.open(Fixtures.BUNDLE);
        for (int at = 1; at <= 4; at++) {
            StackOverflowError thrown = new StackOverflowError();
            int[] left = {at};
            Stop failing = () -> {
                if (--left[0] == 0) {
                    throw thrown;
                }
            };
            assertSame(thrown, assertThrows(Throwable.class, () -> Session.open(bundle, 1, failing)));
            nothingIsLeft();
        }
    }

    @Test
    public void stoppingEndsTheCheckOfAFileInTheMiddle() {
        int[] asked = {0};
        Stop stop = () -> {
            if (++asked[0] == 5) {
                throw new Stop.Stopped();
            }
        };
        InputException error = assertThrows(Stop.Stopped.class, () -> Bundle.open(Fixtures.BUNDLE, stop));
        assertEquals("stopped", error.getMessage());
        assertEquals("asked on after the stop", 5, asked[0]);
        long pieces = Bundle.read(Fixtures.BUNDLE).bytes() >> 16;
        asked[0] = -1_000_000;
        Bundle.open(Fixtures.BUNDLE, stop);
        assertTrue("asked for each 64 KiB", asked[0] + 1_000_000 >= pieces);
    }

    @Test
    public void stoppingEndsThePictureBetweenItsStages() {
        int[] asked = {0};
        Stop second = () -> {
            if (++asked[0] == 2) {
                throw new Stop.Stopped();
            }
        };
        Session session = Fixtures.session();
        assertThrows(Stop.Stopped.class, () -> session.encodeImage(Fixtures.photo("easy-vqa-0.png"), second));
        assertEquals(0, session.stats().visionEncoder, 0);
    }

    private static long direct() {
        for (BufferPoolMXBean pool : ManagementFactory.getPlatformMXBeans(BufferPoolMXBean.class)) {
            if (pool.getName().equals("direct")) {
                return pool.getMemoryUsed();
            }
        }
        throw new AssertionError("no such pool");
    }
}
