package android.graphics;

public class Matrix {
    private boolean identity = true;

    public boolean isIdentity() {
        return identity;
    }

    public void setScale(float x, float y) {
        identity = false;
    }

    public void setRotate(float degrees) {
        identity = false;
    }

    public boolean postScale(float x, float y) {
        return true;
    }
}
